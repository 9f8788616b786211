"""Files that are written whole or not at all: checksummed safetensors.

The header of a checksummed file holds one entry, because the order of several is not defined: a
SHA-256 over description and tensors in hexadecimal, then the description as JSON.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

Arrays = Mapping[str, NDArray[Any]]


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
    """Write a file so that it is there whole, or as it was before.

    Args:
        path: File to write; its folder is made.
        content: What it is to hold.

    Raises:
        OSError: If the file cannot be written, naming it; an older file is left as it was.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        # a copy of the checkout may do the same work and delete the folder: it is made again
        for left in (2, 1, 0):
            with suppress(FileNotFoundError, FileExistsError) if left else nullcontext():
                path.parent.mkdir(parents=True, exist_ok=True)
                with partial.open("wb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX)  # see `remove_stale_partials`
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(path)
                break
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def json_text(
    content: Any, place: object, *, indent: int | None = None, sort_keys: bool = False
) -> str:
    """Return content as JSON, which has no NaN and no infinity.

    Args:
        content: Anything JSON can hold.
        place: What it is written to, for the message.
        indent: Blanks per level; None writes one line.
        sort_keys: Whether keys are sorted.

    Returns:
        The text, without a line break at the end.

    Raises:
        ValueError: If a number is not finite; its key is named.
    """
    try:
        return json.dumps(
            content, ensure_ascii=False, allow_nan=False, indent=indent, sort_keys=sort_keys
        )
    except ValueError:
        key, value = next(_not_finite(content, ""), ("a number", "not finite"))
        raise ValueError(f"{place}: {key} is {value}; nothing is written") from None


def _not_finite(content: Any, key: str) -> Iterator[tuple[str, float]]:
    """Yield the numbers that are not finite, each with the keys that lead to it."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield from _not_finite(value, f"{key}.{name}".lstrip("."))
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            yield from _not_finite(value, f"{key}[{index}]")
    elif isinstance(content, float) and not math.isfinite(content):
        yield key, content


def remove_stale_partials(folder: Path) -> None:
    """Delete what killed processes left half written in a folder; what is being written stays."""
    for path in folder.glob("*.partial"):
        with suppress(OSError), path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def read_checksummed(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays and the description of a file, or refuse it.

    Args:
        path: A file that `write_checksummed` wrote.

    Returns:
        The arrays and the description.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another kind, truncated, or does not match its checksum.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        checksum, described = header["sealed"][:64], header["sealed"][64:]
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a complete knowsub file ({error})") from None
    if checksum != _digest(described, arrays):
        raise ValueError(f"{path}: the checksum does not match; the file is corrupt")
    return arrays, json.loads(described)


def _digest(described: str, arrays: Arrays) -> str:
    digest = hashlib.sha256(described.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def read_utf8(path: Path) -> str:
    """Return a file's text without a byte-order mark.

    Args:
        path: The file.

    Returns:
        Its text.

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


def differing_parts(fingerprint: str, other: str) -> str:
    """Return which parts of two models' fingerprints differ, such as `weights and tokenizer`."""
    names = ("weights", "configuration", "tokenizer")
    pairs = zip(names, fingerprint.split("-"), other.split("-"), strict=False)
    return " and ".join(name for name, one, now in pairs if one != now)


def other_model_error(made_for: str, fingerprint: str) -> str:
    """Return in what a mask's model differs from one with a fingerprint; empty if in nothing."""
    if f"{made_for}-".startswith(f"{fingerprint}-"):
        return ""
    models = f"the mask belongs to model {made_for[:12]}, this is model {fingerprint[:12]}"
    if fingerprint.startswith(f"{made_for}-"):
        return (
            f"{models} of the same weights; the mask is of an earlier version, which knew "
            "nothing of configuration and tokenizer: search it again"
        )
    return f"{models}: another {differing_parts(made_for, fingerprint)}"
