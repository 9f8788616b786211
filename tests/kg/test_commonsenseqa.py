from __future__ import annotations

from pathlib import Path

import pytest

from knowsub.kg.readers import read_commonsenseqa
from tests.kg.setting import FIXTURES, SAMPLES, needs_samples


def test_facts_carry_the_questions_behind_them() -> None:
    found = read_commonsenseqa(FIXTURES / "csqa/questions.json")
    assert found.counts == {"read": 3, "duplicate": 1}
    assert dict(found.questions) == {
        "paper clip|AtLocation|desk": ("q1", "q2"),
        "rain|Causes|flood": ("q3",),
        "rain|Causes|puddles": ("q4",),
    }


def test_questions_of_left_out_facts_go_with_them() -> None:
    found = read_commonsenseqa(FIXTURES / "csqa/questions.json", one_tail=True)
    assert set(found.questions) == {fact.key for fact in found.facts}
    assert "contradiction" in found.skipped[-1].reason


def test_a_missing_relation_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"head": "a", "tail": "b", "id": "q"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl:1: field 'rel' is missing"):
        read_commonsenseqa(tmp_path / "a.jsonl")


@needs_samples
def test_the_sample_has_one_question_per_fact() -> None:
    found = read_commonsenseqa(SAMPLES / "csqa/csqa_targetkg_best_format.json")
    assert found.counts == {"read": 363}
    assert len({name for names in found.questions.values() for name in names}) == 363
