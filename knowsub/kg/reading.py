"""What every reader of a facts file returns, and how it names places in the file."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from knowsub.kg.triple import Fact, Statement
from knowsub.kg.words import statement_words

_HALVES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Skip:
    """One entry of a file that was not taken over."""

    place: str
    """File and line, and the entry's number where a line may hold several."""
    what: str
    """The entry in words, such as `fruit IsA rarely`."""
    reason: str
    """Why it was left out; equal reasons are equal strings, for counting."""


@dataclass(frozen=True)
class Reading:
    """Everything that a reader found in a file: each entry is a fact, a statement or a skip."""

    facts: tuple[Fact, ...]
    """The facts, each once, in the order of the file."""
    statements: tuple[Statement, ...] = ()
    """Statements that the file itself carries, in its order."""
    skipped: tuple[Skip, ...] = ()
    """Entries that gave no fact, or facts that were left out."""
    questions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Identifiers of the questions behind a fact, by the fact's key."""

    @property
    def counts(self) -> dict[str, int]:
        """Facts read, and entries skipped by reason [entries]."""
        reasons = Counter(skip.reason for skip in self.skipped)
        return {"read": len(self.facts), **{key: reasons[key] for key in sorted(reasons)}}


DUPLICATE = "duplicate"
SAME_WORDS = "the same words as an earlier fact"
CONTRADICTION = "contradiction: the head has another tail already"


def keep_facts(
    entries: Iterable[tuple[str, Fact]], *, one_tail: bool
) -> tuple[tuple[Fact, ...], tuple[Skip, ...]]:
    """Return each fact once, and what was left out.

    Args:
        entries: Places and facts, in the order of the file.
        one_tail: Whether a second tail of the same head words and relation is left out.

    Returns:
        The facts kept, the first of those that clash, and the skips.
    """
    kept: dict[tuple[str, str, str], Fact] = {}
    tails: set[tuple[str, str]] = set()
    skipped = []
    for place, fact in entries:
        words = statement_words(fact)
        reason = None
        if words in kept:
            reason = DUPLICATE if kept[words] == fact else SAME_WORDS
        elif one_tail and words[:2] in tails:
            reason = CONTRADICTION
        if reason is None:
            kept[words] = fact
            tails.add(words[:2])
        else:
            skipped.append(skip(place, fact, reason))
    return tuple(kept.values()), tuple(skipped)


def skip(place: str, fact: Fact, reason: str) -> Skip:
    """Return the skip of a fact that stands at a place of a file."""
    return Skip(place, f"{fact.head} {fact.relation} {fact.tail}", reason)


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
