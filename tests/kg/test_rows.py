"""Rows of a JSON file are named by place, and their fields are text or refused."""

from pathlib import Path

import pytest

from knowsub.kg.rows import json_rows, text_field


def test_lines_and_arrays_name_their_places(tmp_path: Path) -> None:
    lines, array = tmp_path / "a.jsonl", tmp_path / "a.json"
    lines.write_text('{"a": 1}\n\n{"a": 2}\n')
    array.write_text('[\n  {"a": 1},\n  {"a":\n 2}, {"a": 3}]\n')
    assert [place for place, _ in json_rows(lines)] == [f"{lines}:1", f"{lines}:3"]
    assert [place for place, _ in json_rows(array)] == [
        f"{array} (entry 1)",
        f"{array} (entry 2)",
        f"{array} (entry 3)",
    ]
    assert [row["a"] for _, row in json_rows(array)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a"\n', r"a\.jsonl:2: not JSON"),
        ("a.jsonl", "3\n", r"a\.jsonl:1: int found"),
        ("a.json", '[{"a": 1}\n {"a": 2}]', r"a\.json:2: not JSON"),
        ("a.json", '[{"a": 1},\n', r"a\.json:2: not JSON"),
        ("a.json", '["b"]', r"a\.json \(entry 1\): str found"),
        ("a.json", '[{"a": 1}] tail', r"a\.json:1: not JSON"),
        ("a.json", "[{},]", r"a\.json:1: not JSON"),
    ],
)
def test_broken_files_name_file_and_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        list(json_rows(tmp_path / name))


def test_an_empty_array_has_no_entry(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[ ]")
    assert list(json_rows(tmp_path / "a.json")) == []


def test_fields_are_looked_up_in_order_and_named_when_wrong() -> None:
    assert text_field({"b": " two  words "}, ["a", "b"], "f:1") == "two words"
    with pytest.raises(ValueError, match=r"f:1: field 'a' is missing; the entry has b"):
        text_field({"b": None}, ["a"], "f:1")
    with pytest.raises(ValueError, match=r"f:1: field 'a': 3 is not allowed"):
        text_field({"a": 3}, ["a"], "f:1")
    with pytest.raises(ValueError, match=r"f:1: field 'a': ' ' is not allowed"):
        text_field({"a": " "}, ["a"], "f:1")
