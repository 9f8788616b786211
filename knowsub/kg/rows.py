"""Rows of a user's JSON or JSON Lines file, each with its place, and their fields of text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from knowsub.artifacts import read_utf8


def json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSON Lines file, or of a file that is one JSON array of objects.

    Args:
        path: The file, UTF-8.

    Yields:
        The place (`file:line`, in an array `file (entry n)`) and the object.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it is not UTF-8 or not JSON, or an entry is no object; the place is named.
    """
    text = read_utf8(path)
    if text.lstrip().startswith("["):
        entries = enumerate(_json(path, 1, text), start=1)
        rows = ((f"{path} (entry {number})", row) for number, row in entries)
    else:
        lines = enumerate(text.split("\n"), start=1)
        rows = ((f"{path}:{n}", _json(path, n, line)) for n, line in lines if line.strip())
    for place, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{place}: {type(row).__name__} found; allowed is a JSON object")
        yield place, row


def _json(path: Path, line: int, text: str) -> Any:
    """Return what a text that begins on some line of a file says."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{line + error.lineno - 1}: not JSON: {error.msg}") from None
    except ValueError as error:  # a number of too many digits
        raise ValueError(f"{path}:{line}: not JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"{path}:{line}: not JSON: nested too deeply") from None


def text_field(row: Mapping[str, Any], names: Sequence[str], place: str) -> str:
    """Return the first of some fields that an entry has, its blanks made single.

    Args:
        row: The entry.
        names: Names of the field, the preferred one first.
        place: Where the entry stands.

    Returns:
        The field's text.

    Raises:
        ValueError: If none of them holds text; place and field are named.
    """
    name = next((name for name in names if row.get(name) is not None), None)
    if name is None:
        has = ", ".join(map(str, row)) or "nothing"
        raise ValueError(f"{place}: field {names[0]!r} is missing; the entry has {has}")
    value, fault = row[name], ""
    if not isinstance(value, str) or not value.strip():
        fault = "not allowed"
    elif re.search("[\ud800-\udfff]", value):
        fault = "half a character"
    if fault:
        raise ValueError(f"{place}: field {name!r}: {value!r} is {fault}; allowed: text")
    return " ".join(value.split())


MOST = 12
"""Mistakes of one file that are said in full."""


def listed(mistakes: Sequence[str]) -> str:
    """Return mistakes as one message, of many the first ones and how many more there are."""
    more = [f"and {len(mistakes) - MOST} more"] if len(mistakes) > MOST else []
    return "; ".join([*mistakes[:MOST], *more])
