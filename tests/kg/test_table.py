from __future__ import annotations

from pathlib import Path

import pytest

from knowsub.kg.readers import read_table
from tests.kg.setting import FIXTURES


def test_a_table_names_its_columns() -> None:
    found = read_table(FIXTURES / "table/planets.tsv")
    assert [(fact.key, fact.object_words) for fact in found.facts] == [
        ("Mercury|orbits|Q525", "the Sun"),
        ("Venus|orbits|Q525", "the Sun"),
        ("Io|orbits|Q319", "Jupiter"),
    ]


def test_json_lines_read_alike() -> None:
    found = read_table(FIXTURES / "table/moons.jsonl", one_tail=True)
    assert [fact.subject_words for fact in found.facts] == ["Titan", "the moon Ariel"]
    assert found.skipped[0].place.endswith("moons.jsonl:2")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "head\ttail\nx\ty\n", r"a\.tsv:1: column 'relation' is missing"),
        ("a.tsv", "head\trelation\ttail\nx\ty\n", r"a\.tsv:2: 2 fields; the header names 3"),
        ("a.tsv", "head\trelation\ttail\nx\t\tz\n", r"a\.tsv:2: field 'relation': '' is not"),
        ("a.tsv", "head\trelation\ttail\tnote\nx\tr\tz\tn\n", r"a\.tsv:2: field 'note' is not"),
        ("a.tsv", "", r"a\.tsv:1: column 'head' is missing"),
        ("a.jsonl", '{"head": "x", "relation": "r"}', r"a\.jsonl:1: field 'tail' is missing"),
        ("a.csv", "head,relation,tail", r"a\.csv: ending '\.csv' is not allowed"),
    ],
)
def test_errors_name_file_line_and_field(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / name)


def test_windows_line_ends_and_byte_order_marks_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"\xef\xbb\xbfhead\trelation\ttail\r\nx\tr\tz\r\n")
    assert [fact.key for fact in read_table(tmp_path / "a.tsv").facts] == ["x|r|z"]
