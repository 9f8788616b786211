"""Entries of a file of facts and their fields, each with the place where it stands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_HALVES = re.compile("[\ud800-\udfff]")


def json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSON Lines file, or of a file that is one JSON array of objects.

    Args:
        path: The file, UTF-8.

    Yields:
        The place (`file:line`, in an array followed by the entry's number) and the object.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it is not UTF-8 or not JSON, or an entry is no object; the place is named.
    """
    text = read_utf8(path)
    rows = _array(path, text) if text.lstrip().startswith("[") else _lines(path, text)
    for place, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{place}: {type(row).__name__} found; allowed is a JSON object")
        yield place, row


def read_utf8(path: Path) -> str:
    """Return a file's text.

    Args:
        path: The file.

    Returns:
        Its text, without a byte-order mark.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it is not UTF-8.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}") from None


def text_field(row: Mapping[str, Any], names: Sequence[str], place: str) -> str:
    """Return the first of some fields that an entry has.

    Args:
        row: The entry.
        names: Names of the field, the preferred one first.
        place: Where the entry stands.

    Returns:
        The field's text, stripped.

    Raises:
        ValueError: If none of them holds text; place and field are named.
    """
    for name in names:
        if row.get(name) is not None:
            value = row[name]
            if not isinstance(value, str) or not value.strip():
                raise ValueError(
                    f"{place}: field {name!r}: {value!r} is not allowed; allowed: text"
                )
            if _HALVES.search(value):
                raise ValueError(
                    f"{place}: field {name!r}: {value!r} is half a character; allowed: text"
                )
            return " ".join(value.split())
    has = ", ".join(map(str, row)) or "nothing"
    raise ValueError(f"{place}: field {names[0]!r} is missing; the entry has {has}")


def _lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """Yield the values of a JSON Lines text."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}:{number}: not JSON: {_reason(error)}") from None
            yield f"{path}:{number}", row


def _array(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """Yield the values of a JSON array with the lines on which they begin."""
    decoder, start, entry = json.JSONDecoder(), text.index("[") + 1, 0
    line, counted = 1, 0
    while True:
        start = _after_blanks(text, start)
        if text[start : start + 1] == "]" and not text[start + 1 :].strip():
            return
        line, counted = line + text.count("\n", counted, start), start
        place = f"{path}:{line} (entry {entry + 1})"
        if entry and text[start : start + 1] != ",":
            raise ValueError(f"{place}: not JSON: ',' or the array's end expected")
        if entry:
            start = _after_blanks(text, start + 1)
            line, counted = line + text.count("\n", counted, start), start
            place = f"{path}:{line} (entry {entry + 1})"
        entry += 1
        try:
            value, start = decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place}: not JSON: {_reason(error)}") from None
        yield place, value


def _reason(error: ValueError | RecursionError) -> str:
    """Return why a text is no JSON: its grammar, a number too long, or nested too deeply."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)


def _after_blanks(text: str, start: int) -> int:
    """Return the position of the next character that is no blank."""
    while start < len(text) and text[start] in " \t\r\n":
        start += 1
    return start
