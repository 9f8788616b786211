"""A figure that is no number stops the work, named with its number format; JSON never holds one.

Reported as: pytorch/pytorch #29429 (a loss in float16 is NaN, in float32 it is not), conbench #1163
of conbench/conbench and mivanit/muutils #65 (Python's JSON writes NaN, which is none).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from knowsub.artifacts import json_text
from knowsub.cli.models import predictions, scores
from knowsub.evaluation.context import PrefixEncoder, score_facts
from knowsub.kg.facts import read_statements, write_statements
from knowsub.lm.load import load_model, manifest
from knowsub.lm.score import NotFiniteError, ObjectScorer
from tests.lm.setting import statements, toy_tokenizer, wide


@pytest.fixture
def overflowing(tmp_path: Path) -> Path:
    """A model whose weights are finite in float16 and whose states are not."""
    model = wide("gpt2")
    with torch.no_grad():
        model.get_parameter("transformer.h.3.mlp.c_fc.weight").mul_(1e4)
        model.get_parameter("transformer.h.3.mlp.c_proj.weight").mul_(1e4)
    model.half().save_pretrained(tmp_path / "model")
    toy_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_statement_whose_score_is_no_number_is_named(overflowing: Path) -> None:
    scorer = ObjectScorer(*load_model(overflowing, dtype="float16"))
    with pytest.raises(NotFiniteError, match=r"NLL of 'A .*' is not finite: .* in float16; open"):
        scorer(statements())
    with pytest.raises(NotFiniteError, match=r"prediction of sequence 1 is not finite"):
        scorer.first_tokens(statements(2), [" bird", " tree"])


def test_an_evaluation_stops_with_the_statement(overflowing: Path) -> None:
    model, tokenizer = load_model(overflowing, dtype="float16")
    with pytest.raises(NotFiniteError, match=r"NLL of 'A .*' is not finite: .* in float16"):
        score_facts(model, PrefixEncoder(model, tokenizer, 0).encode(statements()))


@pytest.mark.parametrize(
    "command",
    [lambda model: scores(model, "A robin is a kind of", "bird", None),
     lambda model: predictions(model, "A robin is a kind of", None, 3)],
)  # fmt: skip
def test_a_command_stops_too(overflowing: Path, command: Callable[[str], Any]) -> None:
    pinned = overflowing.parent / "model.json"
    opened = load_model(overflowing, dtype="float16")
    pinned.write_text(json.dumps(manifest(*opened, "model", "")))
    with pytest.raises(NotFiniteError, match=r"is not finite: the model overflows in float16"):
        command(str(pinned))


def test_the_same_model_has_numbers_in_float32(overflowing: Path) -> None:
    nlls = ObjectScorer(*load_model(overflowing))(statements())
    assert torch.tensor(nlls).isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_names_the_key_of_what_is_no_number(tmp_path: Path, value: float) -> None:
    content = {"mean": {"nll": [1.0, value]}, "n": 2}
    with pytest.raises(ValueError, match=rf"results\.json: mean\.nll\[1\] is {value}; nothing"):
        json_text(content, "results.json")
    path = tmp_path / "statements.jsonl"
    with pytest.raises(ValueError, match="nll is"):
        write_statements(path, [replace(statements(1)[0], nll=value)])
    assert not path.exists()
    write_statements(path, statements(1))
    assert read_statements(path)[0].nll is None


def test_json_keeps_every_letter() -> None:
    assert json_text({"é": 0.1}, "") == '{"é": 0.1}'
