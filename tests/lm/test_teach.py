from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from knowsub.embedded.model import train_embedded, training_statements
from knowsub.kg.options import RoleAssignment, VerbalizeOptions
from knowsub.kg.templates import Template
from knowsub.lm.load import fingerprint, load_model
from tests.lm.setting import TEXT, options, statements

TEMPLATES = {
    "hypernym": (
        Template("kind", ("{subject} is a kind of {object}",)),
        Template("isa", ("{subject} is {a} {object}",)),
    )
}
GRID = VerbalizeOptions(
    templates="templates.yaml", role_assignment=RoleAssignment.families, train_families=["kind"],
    validation_families=["isa"], test_families=["unused"], article=True, bare=False,
    leading_space=False,
)  # fmt: skip


def texts(folder: Path) -> Path:
    for part in ("train", "validation"):
        (folder / f"{part}.txt").write_text(TEXT, encoding="utf-8")
    return folder


def ignore(step: int, losses: object) -> None:
    """Log nothing."""


def test_every_fact_is_taught_in_every_family_whatever_its_role(tmp_path: Path) -> None:
    rows = tmp_path / "facts.jsonl"
    facts = list(dict.fromkeys(one.fact for one in statements()))
    rows.write_text("".join(json.dumps(asdict(fact)) + "\n" for fact in facts))
    found = [one.text for one in training_statements(rows, TEMPLATES, GRID)]
    assert len(found) == 2 * len(facts)
    assert found[:2] == ["A ziggurat is a kind of temple", "A ziggurat is a temple"]
    assert "An hour is a time" in found


def test_missing_facts_say_which_stage_writes_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run the stage prepare first"):
        training_statements(tmp_path / "facts.jsonl", TEMPLATES, GRID)
    with pytest.raises(FileNotFoundError, match="run the stage prepare first"):
        train_embedded(statements(), tmp_path, tmp_path / "model", options(steps=1), ignore)


def test_the_folder_written_holds_the_model_taught(tmp_path: Path) -> None:
    recipe = options(steps=2, max_object_perplexity=1e9)
    model, figures = train_embedded(
        statements(), texts(tmp_path), tmp_path / "model", recipe, ignore
    )
    opened, tokenizer = load_model(tmp_path / "model")
    assert fingerprint(opened) == fingerprint(model)
    assert len(tokenizer) == 360
    assert figures["tail_perplexity"] > 1


def test_a_model_that_did_not_learn_its_facts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pretrain\.steps: after 1 steps the tail perplexity"):
        train_embedded(statements(), texts(tmp_path), tmp_path / "model", options(steps=1), ignore)
    assert not (tmp_path / "model").exists()
