"""Plain values against a schema of dataclasses: the instance, or one line on what is wrong."""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from knowsub.yaml_file import Source

Schema = TypeVar("Schema")
SHOWN, MESSAGE = 100, 1000
"""Length of a value in a message, and of a message, at most [characters]."""


def conform(tree: Mapping[str, Any], schema: type[Schema], source: Source) -> Schema:
    """Return plain values as an instance of a schema, or say what is wrong with them.

    Args:
        tree: The values.
        schema: A dataclass of sections, values, lists and mappings.
        source: Where the values come from, for messages.

    Returns:
        The instance.

    Raises:
        ValueError: At the first key that is unknown or missing and the first value of a wrong
            type or range; one line with file, key, value and what is allowed.
    """
    try:
        built = _build(tree, schema, "", source)
    except ValueError as error:
        raise ValueError(f"{source.name}: {_short(str(error), MESSAGE)}") from error
    assert isinstance(built, schema)
    return built


def _build(tree: Mapping[str, Any], schema: type[Any], prefix: str, source: Source) -> object:
    hints = get_type_hints(schema)
    names = [field.name for field in fields(schema)]
    for key in tree:
        if key not in names:
            raise ValueError(unknown_key(f"{prefix}{key}", names))
    for name in names:
        if name not in tree:
            raise ValueError(f"{prefix}{name} is missing{source.note(prefix + name)}")
    values = {name: _convert(tree[name], hints[name], f"{prefix}{name}", source) for name in names}
    try:
        return schema(**values)
    except ValueError as error:
        message = str(error)
        raise ValueError(message if message.startswith(prefix) else f"{prefix}{message}") from error


def unknown_key(key: str, names: Iterable[str]) -> str:
    """Return the message on a key that does not exist, with the nearest one that does.

    Args:
        key: Dotted key as written.
        names: Keys that exist in its section.

    Returns:
        One line.
    """
    section, _, last = key.rpartition(".")
    near = difflib.get_close_matches(last, list(names), n=1, cutoff=0.5)
    hint = ".".join(part for part in (section, *near) if part)
    known = f"did you mean {hint}?" if near else f"known: {', '.join(names)}"
    return f"{key} is not a known key; {known}"


def _convert(value: Any, kind: Any, key: str, source: Source) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is types.UnionType:
        option = next(option for option in inner if option is not type(None))
        return None if value is None else _convert(value, option, key, source)
    if origin is list and isinstance(value, list):
        return [_convert(item, inner[0], key, source) for item in value]
    if origin is dict and isinstance(value, Mapping):
        items = value.items()
        return {name: _convert(item, inner[1], f"{key}.{name}", source) for name, item in items}
    if is_dataclass(kind) and isinstance(value, Mapping):
        assert isinstance(kind, type)
        return _build(value, kind, f"{key}.", source)
    wanted = _refusal(value, kind)
    if wanted:
        shown = "that is empty" if value is None else _short(repr(value), SHOWN)
        raise ValueError(f"{key}: value {shown} is not {wanted}{source.note(key)}")
    return kind(value) if kind is float or _is_choice(kind) else value


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _is_choice(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, StrEnum)


def _is_finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floating-point numbers
        return False


def _refusal(value: Any, kind: Any) -> str:
    """Return what a value should have been, or nothing if it is that."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if _is_choice(kind):
        return "" if value in list(kind) else f"one of {', '.join(kind)}"
    if kind is bool:
        return "" if isinstance(value, bool) else "true or false"
    if kind is int:
        return "" if number and isinstance(value, int) else "a whole number"
    if kind is float:
        return "" if number and _is_finite(value) else "a number"
    if kind is str:
        return "" if isinstance(value, str) else "text (in quotes if need be)"
    return "a section of keys" if is_dataclass(kind) else "a list in [ ]"
