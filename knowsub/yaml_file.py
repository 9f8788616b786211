"""`params.yaml` as plain values, with the line and the comment of every key for messages.

YAML readers disagree: what one takes for text another takes for a number or for true. DVC reads
the same file with a reader of its own, so whatever two readers could understand differently is
refused here, in one line that says how to write it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)$")
_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][-+]?[0-9]+)?$")
_CONSTANTS: dict[str, bool | None] = {"true": True, "false": False, "null": None, "": None}
_SWITCHES = frozenset({"on", "off", "yes", "no", "y", "n"})
_LINES = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
DIGITS = 400
"""Digits of a whole number at most."""
_PLAIN = "write a plain number, or text in quotes"
_OTHER_NUMBER = re.compile(
    r"[-+]?(0[0-9]+|0[oxb][0-9a-f]+|[0-9]+(_[0-9]+)+|[0-9]+(:[0-9]+)+|\.(inf|nan))$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a file's values stand and what it says about them."""

    name: str
    """Name of the file, as messages give it."""
    comments: dict[str, str]
    """Dotted key -> its end-of-line comment."""

    def note(self, key: str) -> str:
        """Return the file's own comment on a key in brackets, or nothing if it has none."""
        comment = self.comments.get(key, "")
        return f" ({comment})" if comment else ""


def read_yaml(path: Path) -> tuple[dict[str, Any], Source]:
    """Return the values of a YAML file that every reader understands alike.

    Args:
        path: The file.

    Returns:
        The values, and where they stand.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no YAML mapping, names a key twice, refers to another value, or holds
            a value that readers of YAML understand differently; one line, with the line number.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; run from the root of the repository")
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=_Plain)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}: is not UTF-8 text: {error.reason}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name}{_where(error)}") from error
    except RecursionError:
        raise ValueError(f"{path.name}: is nested too deeply") from None
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"{path.name}: is not a mapping of keys to values")
    source = Source(path.name, {})
    return _mapping(root, "", source, _LINES.split(text)), source


class _Plain(yaml.SafeLoader):
    """Takes values as they stand: no tag that makes them something else, no name for a value."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark
        if event.anchor is not None:
            raise yaml.MarkedYAMLError(
                problem=f"{event.anchor!r} names a value with & or *; write the value itself",
                problem_mark=mark,
            )
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(
                problem=f"the tag {event.tag} is not allowed; {_PLAIN}", problem_mark=mark
            )
        return super().compose_node(parent, index)


def _where(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f": is not YAML: {' '.join(str(error).split())}"
    return f" line {error.problem_mark.line + 1}: is not YAML: {error.problem}"


def _mapping(
    node: yaml.MappingNode, prefix: str, source: Source, lines: list[str]
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line
        key = str(key_node.value)
        dotted = f"{prefix}{key}"
        place = f"{source.name} line {line + 1}: {dotted}"
        if key in values:
            raise ValueError(f"{place} stands there twice")
        source.comments[dotted] = _comment(lines[line])
        values[key] = _value(value_node, dotted, place, source, lines)
    return values


def _value(node: yaml.Node, dotted: str, place: str, source: Source, lines: list[str]) -> Any:
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, f"{dotted}.", source, lines)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, dotted, place, source, lines) for item in node.value]
    assert isinstance(node, yaml.ScalarNode)
    return _scalar(str(node.value), node.style is not None, place)


def _scalar(text: str, quoted: bool, place: str) -> bool | int | float | str | None:
    if "${" in text:
        raise ValueError(f"{place}: value {text!r} refers to another value; write the value itself")
    if quoted:
        return text
    lower = text.lower()
    if lower in _SWITCHES:
        raise ValueError(f"{place}: value {text} is read as a switch by some; write true or false")
    if _OTHER_NUMBER.match(text):
        raise ValueError(f"{place}: value {text} is read differently by some; {_PLAIN}")
    if lower in _CONSTANTS or text == "~":
        return _CONSTANTS.get(lower)
    if _INTEGER.match(text):
        return _whole(text, place)
    if _NUMBER.match(text) and any(letter.isdigit() for letter in text):
        return float(text)
    return text


def _whole(text: str, place: str) -> int:
    """Return a whole number, unless it has so many digits that it is none."""
    if len(text) > DIGITS:
        raise ValueError(f"{place}: value {text[:20]}... has too many digits; allowed: {DIGITS}")
    return int(text)


def _comment(line: str) -> str:
    """Return what follows the ` #` of a line; keys with `#` inside quotes carry none of ours."""
    _, mark, comment = line.partition(" #")
    return comment.strip() if mark else ""
