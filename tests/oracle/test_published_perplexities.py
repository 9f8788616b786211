"""The published tail perplexities of the paper's WordNet targets, as an oracle for our scoring.

The reference's files (`Synset('<target>')_best_format.json`) are looked for in the folder that
`KNOWSUB_REFERENCE` names, else beside the repository; the weights in the folder that
`KNOWSUB_GPT2` or `KNOWSUB_GPT2_MEDIUM` names, else in the hub's cache. Neither is fetched:

    KNOWSUB_REFERENCE=know-subnet/data/wordnet pytest -m network tests/oracle
"""

from __future__ import annotations

import math
import os
from functools import cache
from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from knowsub.kg.facts import Statement
from knowsub.kg.folders import target_files
from knowsub.kg.options import FactSource
from knowsub.kg.readers import read_reference
from knowsub.lm.load import load_model, resolve_model
from knowsub.lm.score import ObjectScorer
from tests.kg.setting import TREE

PUBLISHED = {
    "building.n.01": {"gpt2": 51.9, "gpt2-medium": 26.8},
    "change.n.01": {"gpt2": 109.7, "gpt2-medium": 73.2},
    "communication.n.02": {"gpt2": 96.3, "gpt2-medium": 65.2},
    "location.n.01": {"gpt2": 198.0, "gpt2-medium": 119.0},
    "magnitude.n.01": {"gpt2": 299.9, "gpt2-medium": 208.7},
    "representation.n.02": {"gpt2": 210.7, "gpt2-medium": 106.8},
    "statement.n.01": {"gpt2": 170.2, "gpt2-medium": 97.7},
}
"""Geometric mean of the tail PPL over the facts of a target, by model; one decimal."""
FACTS = {
    "building.n.01": 11, "change.n.01": 13, "communication.n.02": 16, "location.n.01": 19,
    "magnitude.n.01": 12, "representation.n.02": 12, "statement.n.01": 16,
}  # fmt: skip
"""Facts of each target."""


def reference_file(target: str) -> Path:
    """Return the reference's file of a target, or skip with a line on what is missing."""
    folder = Path(os.environ.get("KNOWSUB_REFERENCE", TREE / "wordnet"))
    try:
        return target_files(folder, target, FactSource.reference)[0]
    except FileNotFoundError:
        pytest.skip(f"no {target} in {folder}; KNOWSUB_REFERENCE names the reference's folder")


@cache
def opened(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase] | str:
    """Return the real model and its tokenizer, or a line on what is missing."""
    variable = f"KNOWSUB_{name.upper().replace('-', '_')}"
    try:
        return load_model(resolve_model(os.environ.get(variable, name)).folder)
    except FileNotFoundError as error:
        return f"{error}, which {variable} names"


def geometric_mean(values: list[float]) -> float:
    """Return exp of the mean of some NLLs: the geometric mean of the perplexities."""
    return math.exp(sum(values) / len(values))


def told(target: str, model: str) -> list[Statement]:
    given = read_reference(reference_file(target)).statements
    statements = [each.statement for each in given if each.model == model]
    assert len(statements) == FACTS[target]
    return statements


@pytest.mark.parametrize("model", ["gpt2", "gpt2-medium"])
@pytest.mark.parametrize("target", PUBLISHED)
def test_every_fact_of_the_files_is_read_and_their_perplexities_are_the_published_ones(
    target: str, model: str
) -> None:
    values = [one.nll for one in told(target, model) if one.nll is not None]
    assert len(values) == FACTS[target]
    assert geometric_mean(values) == pytest.approx(PUBLISHED[target][model], abs=0.051)


@pytest.mark.network
@pytest.mark.parametrize("model", ["gpt2", "gpt2-medium"])
@pytest.mark.parametrize("target", PUBLISHED)
def test_the_real_model_gives_the_published_perplexity(target: str, model: str) -> None:
    statements = told(target, model)
    found = opened(model)
    if isinstance(found, str):
        pytest.skip(found)
    values = ObjectScorer(*found)(statements)
    assert geometric_mean(values) == pytest.approx(PUBLISHED[target][model], rel=2e-3, abs=0.06)
