"""Files that are written whole or not at all: checksummed safetensors, and JSON Lines.

Masks and checkpoints are sealed files. The header holds one entry, because the order of several
is not defined: a SHA-256 over description and tensors in hexadecimal, then the JSON description.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

Arrays = Mapping[str, NDArray[Any]]
TRIES = 3
"""Attempts to write into a folder that another process may delete."""


def write_checksummed(path: Path, arrays: Arrays, description: Mapping[str, Any]) -> None:
    """Write arrays and their description atomically; the same content gives the same bytes.

    Args:
        path: File to write; its folder is made.
        arrays: Name -> array.
        description: Anything JSON can hold.

    Raises:
        OSError: If the file cannot be written, naming it; an older file is left as it was.
    """
    described = json.dumps(description, sort_keys=True)
    header = {"sealed": _digest(described, arrays) + described}
    atomic_write(path, save(dict(arrays), metadata=header))


def atomic_write(path: Path, content: bytes) -> None:
    """Write a file atomically: it is there whole, or as it was before.

    The same work may be done twice at the same time, in two copies of the checkout that share this
    file's folder, and either may be the first to delete the folder: it is made again.

    Args:
        path: File to write.
        content: What it is to hold.

    Raises:
        OSError: If the file cannot be written, naming it; an older file is left as it was.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        for left in reversed(range(TRIES)):
            with suppress(FileNotFoundError, FileExistsError) if left else nullcontext():
                path.parent.mkdir(parents=True, exist_ok=True)
                _on_disk(partial, content)
                partial.replace(path)
                break
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def _on_disk(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def remove_stale_partials(folder: Path) -> None:
    """Delete what processes that were killed left half written; what is being written stays.

    Args:
        folder: Folder that `write_sealed` writes to.
    """
    for path in folder.glob("*.partial"):
        with suppress(OSError), path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def read_checksummed(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read what `write_sealed` wrote, or refuse it.

    Args:
        path: The file.

    Returns:
        The arrays and the description.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another kind, truncated, or does not match its seal.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        seal, described = header["sealed"][:64], header["sealed"][64:]
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a complete knowsub file ({error})") from None
    if seal != _digest(described, arrays):
        raise ValueError(f"{path}: the checksum does not match; the file is corrupt")
    return arrays, json.loads(described)


def _digest(described: str, arrays: Arrays) -> str:
    digest = hashlib.sha256(described.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


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
