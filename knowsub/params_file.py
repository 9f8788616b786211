"""A YAML file of parameters as every reader of YAML understands it, with the places of its values.

Mistakes name the file, the line, the key and the key's own comment, which says what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent, ScalarEvent


@dataclass(frozen=True)
class Source:
    """The values of a YAML file, and where they stand."""

    name: str
    """Name of the file, for messages."""
    values: Mapping[Any, Any]
    """Key -> value or section."""
    places: Mapping[str, tuple[int, str]]
    """Dotted key -> its line and its end-of-line comment."""

    def mistake(self, key: str, reason: str, line: int = 0) -> str:
        """Return one line with the file, the line, the key, what is wrong and the key's comment."""
        known, comment = self.places.get(key, (line, ""))
        where = f"{self.name} line {known}" if known else self.name
        shown = f": {key if key.isprintable() else ascii(key)}" if key else ""
        colon = "" if key and reason.startswith("is ") else ":"
        return shorten(f"{where}{shown}{colon} {reason}{comment and f' ({comment})'}", 1000)


def shorten(text: str, length: int = 100) -> str:
    """Return a text, cut to a length [characters]."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def fail(mistakes: Sequence[str], shown: int = 20) -> None:
    """Raise ValueError with one line per mistake, if there is any."""
    more = [f"... and {len(mistakes) - shown} more mistakes"] if len(mistakes) > shown else []
    if mistakes:
        raise ValueError("\n".join([*mistakes[:shown], *more]))


KEY = re.compile(r"( *)([\w.-]+):(?:.*?\s#+\s*(.*))?")
"""A line with a key: its indentation, the key and the comment."""
LINE_BREAK = "\r\n|[\n\r\x85\u2028\u2029]"
"""Where YAML begins a line."""
AMBIGUOUS = re.compile(
    r"on|off|yes|no|y|n|<<|=|[-+]?(0\d+|0[oxb]\w+|[\d.]*_[\d_.]*|\d+(:[\d.]+)+|\.(inf|nan))"
    r"|\d{4}-\d\d?-\d\d?.*|[-+]?\d{401,}",
    re.IGNORECASE | re.ASCII,
)
"""Plain scalars that readers of YAML take for different values, and endless whole numbers."""


def read_yaml(text: str, name: str, texts: Collection[str] = ()) -> Source:
    """Return the values of a YAML text that every reader understands alike, and their places.

    DVC writes what `-S` sets without quotes where YAML 1.2 reads text all the same, as in `no` and
    `2:4`; under a key of `texts` that is what it is, and so is a plain whole number.

    Args:
        text: The text.
        name: Name of the file, for messages.
        texts: Dotted keys whose values, or entries, are text.

    Returns:
        The values and their places.

    Raises:
        ValueError: If it is no YAML mapping, has a duplicate key, or holds values that refer to
            others or are read differently by readers of YAML: one line for each.
    """
    places, path = {}, list[str]()
    for number, line in enumerate(re.split(LINE_BREAK, text), start=1):
        if found := KEY.match(line):
            path = [*path[: len(found[1]) // 2], found[2]]
            places[".".join(path)] = number, " ".join((found[3] or "").split())
    try:
        _require_plain(text, Source(name, {}, places), texts)
        values = YAML(typ="safe").load(text)
    except YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f"{name} line {mark.line + 1}" if mark else name
        kind = "" if isinstance(error, DuplicateKeyError) else "is not YAML: "
        raise ValueError(f"{where}: {kind}{' '.join(str(problem or error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{name}: is not a mapping of keys to values")
    return Source(name, as_text(values, texts), places)


def as_text(values: dict[Any, Any], texts: Collection[str], prefix: str = "") -> dict[Any, Any]:
    """Return values in which whole numbers under keys of text are text, as they are written."""
    return {key: _one_as_text(value, texts, f"{prefix}{key}") for key, value in values.items()}


def _one_as_text(value: Any, texts: Collection[str], key: str) -> Any:
    if isinstance(value, dict):
        return as_text(value, texts, f"{key}.")
    if isinstance(value, list):
        return [_one_as_text(entry, texts, key) for entry in value]
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if is_number and key in texts else value


def _require_plain(text: str, source: Source, texts: Collection[str]) -> None:
    """Refuse what readers of YAML could read differently, or crash on (ValueError)."""
    keys = {line: key for key, (line, _) in source.places.items()}
    mistakes, depth, current = list[str](), 0, ""
    rows = [*re.split(LINE_BREAK, text), ""]
    for event in YAML(typ="safe").parse(text):
        line, scalar = event.start_mark.line + 1, isinstance(event, ScalarEvent)
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > 50:  # far beyond it, libyaml's composer overflows the stack
            raise ValueError(f"{source.name}: is nested too deeply")
        is_entry = rows[line - 1].lstrip().startswith("-")  # of a list that DVC has rewritten
        current = keys.get(line, current if is_entry else "")
        if reason := _unclear(event, scalar, current in texts):
            mistakes.append(source.mistake(current, shorten(reason, 300), line))
    fail(list(dict.fromkeys(mistakes)))


def _unclear(event: Any, scalar: bool, wants_text: bool) -> str:
    """Return what is not plain about an event of a YAML text; empty text if it is plain."""
    if getattr(event, "anchor", None) or getattr(event, "tag", None):
        return "anchors, aliases and tags (& * !) are not allowed; write the value itself"
    if scalar and "${" in event.value:
        return f"value {event.value!r} refers to another value; write the value itself"
    if not scalar or event.style or not AMBIGUOUS.fullmatch(event.value):
        return ""
    if wants_text and isinstance(YAML(typ="safe").load(event.value), str):
        return ""
    allowed = "write a plain number, true or false, or text in quotes"
    return f"value {shorten(event.value)} is read differently by some; {allowed}"
