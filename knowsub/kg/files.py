"""Facts and statements as JSON Lines: what the stages hand to each other."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from knowsub.kg.json_lines import json_rows
from knowsub.kg.triple import Fact, Split, Statement

_TEXTS = attrgetter(*(field.name for field in fields(Fact)))
"""All fields of a fact."""


def write_facts(path: Path, facts: Iterable[Fact]) -> None:
    """Write facts, one per line.

    Args:
        path: The file; its folder is made.
        facts: The facts, in the order of the lines.
    """
    _write(path, (asdict(fact) for fact in facts))


def read_facts(path: Path) -> list[Fact]:
    """Return the facts that `write_facts` wrote.

    Args:
        path: The file.

    Returns:
        The facts, in the order of the lines.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If a line is no fact; the line is named.
    """
    return [_fact(place, row) for place, row in json_rows(path)]


def write_kg(path: Path, facts: Iterable[tuple[Fact, Split]]) -> None:
    """Write the facts of one target KG with the part that each plays.

    Args:
        path: The file; its folder is made.
        facts: Facts and splits, in the order of the lines.
    """
    _write(path, ({**asdict(fact), "split": split.value} for fact, split in facts))


def read_kg(path: Path) -> list[tuple[Fact, Split]]:
    """Return the facts and splits that `write_kg` wrote.

    Args:
        path: The file.

    Returns:
        Facts and splits, in the order of the lines.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If a line is no fact with a split; the line is named.
    """
    found = []
    for place, row in json_rows(path):
        try:
            split = Split(row.pop("split", None))
        except ValueError as error:
            raise ValueError(f"{place}: field 'split': {error}") from None
        found.append((_fact(place, row), split))
    return found


def write_statements(path: Path, statements: Iterable[Statement]) -> None:
    """Write statements, one per line.

    Args:
        path: The file; its folder is made.
        statements: The statements, in the order of the lines.
    """
    _write(path, (statement.to_row() for statement in statements))


def read_statements(path: Path) -> list[Statement]:
    """Return the statements that `write_statements` wrote.

    Args:
        path: The file.

    Returns:
        The statements, in the order of the lines.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If a line is no statement; the line is named.
    """
    found = []
    for place, row in json_rows(path):
        try:
            statement = Statement.from_row(row)
            _require_text(statement.prompt, statement.tail, *_TEXTS(statement.fact))
            found.append(statement)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{place}: no statement: {error}") from None
    return found


def _fact(place: str, row: dict[str, Any]) -> Fact:
    """Return the fact of one line."""
    try:
        fact = Fact(**row)
        _require_text(*_TEXTS(fact))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: no fact: {error}") from None
    return fact


def _require_text(*values: object) -> None:
    """Refuse a field that JSON holds as something else."""
    for value in values:
        if not isinstance(value, str):
            raise ValueError(f"value {value!r} is not allowed; allowed: text")


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON objects, one per line, the same bytes for the same rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8", newline="\n")
