"""A safetensors file that nothing corrupt gets through: written whole or not at all, with a seal.

Masks and checkpoints are sealed files. The header holds one entry, because the order of several
is not defined: a SHA-256 over description and tensors in hexadecimal, then the JSON description.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
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


def write_sealed(path: Path, arrays: Arrays, description: Mapping[str, Any]) -> None:
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
    write_whole(path, save(dict(arrays), metadata=header))


def write_whole(path: Path, content: bytes) -> None:
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


def drop_partials(folder: Path) -> None:
    """Delete what processes that were killed left half written; what is being written stays.

    Args:
        folder: Folder that `write_sealed` writes to.
    """
    for path in folder.glob("*.partial"):
        with suppress(OSError), path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def read_sealed(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
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
