"""The user's own facts: a table of head, relation and tail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from knowsub.kg.json_lines import json_rows, read_utf8, text_field
from knowsub.kg.reading import Reading, keep_facts
from knowsub.kg.triple import Fact

COLUMNS = ("head", "relation", "tail")
"""Columns that a table must have."""
WORDS = ("head_words", "tail_words")
"""Columns that it may have: surface words where they differ from the names."""


def read_table(path: Path, *, one_tail: bool = False) -> Reading:
    """Return the facts of a TSV or JSON Lines file.

    Args:
        path: A `.tsv` file whose first line names the columns, or a `.jsonl` file; columns are
            head, relation, tail and, optionally, head_words and tail_words.
        one_tail: Whether a second tail of the same head and relation is left out.

    Returns:
        The facts; words default to the names.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If the file's ending, a column or a field is wrong; file, line and field are
            named.
    """
    if path.suffix not in {".tsv", ".jsonl"}:
        raise ValueError(f"{path}: ending {path.suffix!r} is not allowed; allowed: .tsv, .jsonl")
    rows = _tsv(path) if path.suffix == ".tsv" else json_rows(path)
    facts, skipped = keep_facts((_fact(place, row) for place, row in rows), one_tail=one_tail)
    return Reading(facts, skipped=skipped)


def _fact(place: str, row: dict[str, Any]) -> tuple[str, Fact]:
    """Return the place and the fact of one entry."""
    unknown = sorted(set(row) - {*COLUMNS, *WORDS})
    if unknown:
        allowed = ", ".join([*COLUMNS, *WORDS])
        raise ValueError(f"{place}: field {unknown[0]!r} is not allowed; allowed: {allowed}")
    head, relation, tail = (text_field(row, [name], place) for name in COLUMNS)
    words = [
        text_field(row, [f"{end}_words", end], place) if row.get(f"{end}_words") else name
        for end, name in (("head", head), ("tail", tail))
    ]
    return place, Fact(head, relation, tail, head_words=words[0], tail_words=words[1])


def _tsv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a tab-separated file by its header's names."""
    lines = [line.rstrip("\r") for line in read_utf8(path).split("\n")]
    header = lines[0].split("\t")
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise ValueError(f"{path}:1: column {missing[0]!r} is missing; the header is {header}")
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise ValueError(f"{path}:1: column {twice[0]!r} stands there twice")
    for number, line in enumerate(lines[1:], start=2):
        if line.strip():
            fields = line.split("\t")
            if len(fields) != len(header):
                raise ValueError(
                    f"{path}:{number}: {len(fields)} fields; the header names {len(header)}"
                )
            yield f"{path}:{number}", dict(zip(header, fields, strict=True))
