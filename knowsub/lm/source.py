"""Finds a model's files, here or on the hub, and refuses what is none or is not safe to open.

Only safetensors are fetched, and no code that comes with a model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from huggingface_hub import constants, snapshot_download
from torch import nn

from knowsub.anatomy import family

FILES = ["*.safetensors", "*.json", "*.txt", "*.model"]
"""Patterns of the files of a model that are fetched: weights, configuration, tokenizer."""


@dataclass(frozen=True, slots=True)
class Source:
    """A model that was found: where its files are and which they are."""

    folder: Path
    """Local folder that holds the files."""
    path: str
    """Name to find it by again: the hub id, or the folder's absolute path."""
    revision: str
    """Commit of a hub model; empty for a local folder."""


def resolve(name: str, revision: str = "") -> Source:
    """Return where a model's files are, fetching them from the hub where they are not yet here.

    Args:
        name: A local folder or a hub id such as `gpt2` or `Qwen/Qwen3-0.6B`.
        revision: Branch, tag or commit of a hub model; empty for its main branch.

    Returns:
        The folder, with the commit that the revision stood for.

    Raises:
        FileNotFoundError: If the name is neither a folder nor to be had from the hub or its
            cache, or the cache holds a part of it; the message says how to fetch it.
        ValueError: If the folder holds no model, no safetensors, or an unknown architecture.
    """
    local = Path(name)
    if local.is_dir():
        found = Source(local.resolve(), str(local.resolve()), "")
    elif name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"model {name!r}: no such folder")
    else:
        folder = _fetch(name, revision)
        if missing := _missing(folder):
            raise FileNotFoundError(
                f"model {name!r}: its copy in the hub's cache has no {missing} ({folder}); fetch "
                f"it with `{_command(name, revision)}`; a model that comes without safetensors "
                "must be saved again with save_pretrained"
            )
        found = Source(folder, name, folder.name)
    check_folder(found.folder, name)
    return found


def _fetch(name: str, revision: str) -> Path:
    try:
        folder = snapshot_download(
            name, revision=revision or None, allow_patterns=FILES, ignore_patterns=["*/*"]
        )
    except (OSError, ValueError) as error:
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else first_line(error)
        raise FileNotFoundError(
            f"model {name!r}{f' at {revision!r}' if revision else ''}: no such folder, not in the "
            f"local cache, and not to be had from the hub ({reason}); fetch it with "
            f"`{_command(name, revision)}` or give the path of a folder"
        ) from None
    return Path(folder)


def _command(name: str, revision: str) -> str:
    return f"hf download {name}{f' --revision {revision}' if revision else ''}"


def _missing(folder: Path) -> str:
    """Return the first file that a fetched model lacks, or nothing: a cache may hold a part."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        listed = json.loads(index.read_text(encoding="utf-8")).get("weight_map", {})
        weights = sorted(set(listed.values()))
    else:
        weights = [] if any(folder.glob("*.safetensors")) else ["model.safetensors"]
    return next((name for name in ["config.json", *weights] if not (folder / name).is_file()), "")


def check_folder(folder: Path, name: str) -> None:
    """Refuse a folder without a readable configuration, known architecture and safetensors.

    Args:
        folder: The folder.
        name: The model as the user named it, for the message.

    Raises:
        ValueError: If one of the three is not there.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(f"model {name!r}: the folder {folder} is no model, it has no config.json")
    try:
        kind = json.loads(file.read_text(encoding="utf-8"))["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file}: not the configuration of a model ({first_line(error)})"
        ) from None
    family(cast(nn.Module, SimpleNamespace(config=SimpleNamespace(model_type=kind))))
    if not any(folder.glob("*.safetensors")):
        others = sorted(path.name for path in folder.glob("*.bin")) or ["no weights at all"]
        raise ValueError(
            f"model {name!r}: no safetensors in {folder} ({others[0]}); pickled weights are "
            "refused, save the model again with save_pretrained"
        )


def first_line(error: BaseException) -> str:
    """Return an error's kind and the first line of its message, for a message of one line."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
