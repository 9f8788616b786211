from __future__ import annotations

from pathlib import Path

import pytest

from knowsub.kg.readers import RELATIONS, read_conceptnet, read_reference
from tests.kg.setting import FIXTURES, SAMPLES, needs_samples


def test_lama_lines_are_facts() -> None:
    found = read_conceptnet(FIXTURES / "lama/kettle.jsonl")
    assert [fact.key for fact in found.facts] == [
        "kettle|AtLocation|kitchen",
        "kettle|UsedFor|boil",
        "kettle|AtLocation|stove",
        "tea|MadeOf|leaves",
    ]
    assert found.counts == {"read": 4, "duplicate": 1}
    assert found.skipped[0].place.endswith("kettle.jsonl:4")


def test_a_second_tail_is_left_out_on_demand() -> None:
    found = read_conceptnet(FIXTURES / "lama/kettle.jsonl", one_tail=True)
    assert [fact.object for fact in found.facts] == ["kitchen", "boil", "leaves"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"obj": "a", "pred": "IsA"}', r":1: field 'sub' is missing; the entry has obj, pred"),
        ('{"sub": "a", "pred": "IsA"}', r":1: field 'obj' is missing"),
        ('{"sub": "a", "obj": "b"}', r":1: field 'pred' is missing"),
        ('{"sub": "a", "obj": "b", "pred": "LivesIn"}', r"'LivesIn' is not allowed; .*AtLocation"),
    ],
)
def test_errors_name_file_line_and_field(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=rf"a\.jsonl.*{message}"):
        read_conceptnet(tmp_path / "a.jsonl")


def test_there_are_sixteen_relations() -> None:
    assert len(set(RELATIONS)) == 16


@needs_samples
def test_the_lama_sample_holds_the_facts_of_the_references_file() -> None:
    lama = read_conceptnet(SAMPLES / "conceptnet/fruit.jsonl")
    reference = read_reference(SAMPLES / "conceptnet/fruit_best_format.json")
    assert lama.counts == {"read": 37}
    assert lama.facts == reference.facts
