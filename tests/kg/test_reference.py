from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from knowsub.kg.facts import Role, Split
from knowsub.kg.readers import family_of, read_reference
from tests.kg.setting import FIXTURES, SAMPLES, fact, needs_samples

FOLDER = FIXTURES / "reference"


def test_the_best_file_gives_one_statement_per_fact() -> None:
    found = read_reference(FOLDER / "pond.n.01_best_format.json")
    assert [fact.key for fact in found.facts] == [
        "pond.n.01|hypernym|lake.n.01",
        "tidal_pool.n.02|hypernym|pond.n.01",
    ]
    pond, pool = found.statements
    assert (pond.prompt, pond.object, pond.family) == (
        "A pond is a type of",
        " lake",
        "is a type of",
    )
    assert (pond.role, pond.split) == (Role.TRAIN, Split.TARGET)
    assert pond.nll == pytest.approx(math.log(20.0))
    assert pool.fact.subject_words == "tidal pool"
    assert pool.family == "is a kind of"


def test_another_models_statements_can_be_taken() -> None:
    found = read_reference(FOLDER / "pond.n.01_best_format.json", model="gpt2-medium")
    assert [one.text for one in found.statements] == [" Pond is a lake"]
    assert found.counts == {"read": 2, "no statement for gpt2-medium": 1}


def test_the_paraphrases_are_unseen_statements_of_one_fact() -> None:
    found = read_reference(FOLDER / "pond.n.01_worse_format.json")
    assert len(found.facts) == 1
    assert [(one.family, one.role) for one in found.statements] == [
        ("is a sort of", Role.TEST),
        ("is", Role.TEST),
    ]
    assert found.counts == {
        "read": 1,
        "duplicate": 1,
        "the tail does not end the statement": 1,
    }


def test_every_entry_is_a_statement_or_a_skip() -> None:
    for path in sorted(FOLDER.glob("*.json")):
        found = read_reference(path)
        assert len(found.statements) + len(found.skipped) == len(json.loads(path.read_text()))


@pytest.mark.parametrize(
    ("prompt", "family"),
    [
        ("A pond is a kind of", "is a kind of"),
        (" Pond is an", "is"),
        ("An old pond is a", "An old pond is"),
        ("pond are usually by the", "are usually by the"),
    ],
)
def test_a_family_is_the_wording_between_head_and_tail(prompt: str, family: str) -> None:
    assert family_of(fact("pond", "lake"), prompt) == family


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"head": "pond.n.01"}]')
    with pytest.raises(ValueError, match=r"a\.json \(entry 1\): field 'tail' is missing"):
        read_reference(tmp_path / "a.json")


@needs_samples
@pytest.mark.parametrize(
    ("name", "facts", "statements", "skipped"),
    [
        ("wordnet/building.n.01_best_format.json", 11, 11, 0),
        ("wordnet/building.n.01_worse_format.json", 11, 194, 0),
        ("wordnet/communication.n.02_best_format.json", 16, 16, 0),
        ("wordnet/controlkg_val_best_format.json", 396, 396, 4),
        ("conceptnet/fruit_best_format.json", 37, 37, 0),
        ("conceptnet/controlkg_val_best_format.json", 606, 606, 0),
        ("csqa/csqa_targetkg_best_format.json", 363, 363, 0),
        ("csqa/csqa_controlkg_best_format_val.json", 1185, 1185, 0),
    ],
)
def test_the_reference_files_read_as_they_are(
    name: str, facts: int, statements: int, skipped: int
) -> None:
    found = read_reference(SAMPLES / name)
    counts = (len(found.facts), len(found.statements), len(found.skipped))
    assert counts == (facts, statements, skipped)
    assert all(one.text.endswith(f" {one.fact.object_words}") for one in found.statements)
