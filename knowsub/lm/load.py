"""Finds, checks and opens language models, and says exactly which weights they are.

Only safetensors are fetched, and no code that comes with a model.

Only safetensors are read and no code that comes with a model is run.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from huggingface_hub import constants, snapshot_download
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from knowsub.architectures import architecture

FILES = ["*.safetensors", "*.json", "*.txt", "*.model"]
"""Patterns of the files of a model that are fetched: weights, configuration, tokenizer."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model that was found: where its files are and which they are."""

    folder: Path
    """Local folder that holds the files."""
    path: str
    """Name to find it by again: the hub id, or the folder's absolute path."""
    revision: str
    """Commit of a hub model; empty for a local folder."""


def resolve_model(name: str, revision: str = "") -> ModelFiles:
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
        found = ModelFiles(local.resolve(), str(local.resolve()), "")
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
        found = ModelFiles(folder, name, folder.name)
    check_model_folder(found.folder, name)
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


def check_model_folder(folder: Path, name: str) -> None:
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
    architecture(cast(nn.Module, SimpleNamespace(config=SimpleNamespace(model_type=kind))))
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


SCHEME = 1
"""Version of `model.json`; another one is refused."""


def load_model(
    folder: Path, device: str = "cpu", dtype: str = "float32"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model and the tokenizer of a Hugging Face folder.

    Args:
        folder: The folder, with `config.json`, safetensors and a tokenizer.
        device: `cpu`, `cuda`, `cuda:1`, `mps` ...
        dtype: `float32`, `bfloat16` or `float16`.

    Returns:
        The model in evaluation mode, its parameters needing no gradient, and the tokenizer.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no model, no safetensors, an unknown architecture, weights that do
            not fit or are not finite, no tokenizer, or if the device is not there.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"model {str(folder)!r}: no such folder")
    check_model_folder(folder, str(folder))
    place = _device(device)
    logging.disable_progress_bar()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        model, loading = loaded
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise ValueError(f"model {str(folder)!r}: cannot be opened ({first_line(error)})") from None
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(f"model {str(folder)!r}: the weights of {missing[0]} are missing")
    _check_finite(model, str(folder))
    ready: PreTrainedModel = model.requires_grad_(False).to(place).eval()
    return ready, tokenizer


def open_model(file: Path, device: str = "cpu") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model that `model.json` pins, checked against its fingerprint.

    Args:
        file: The file that the stage `pretrain` wrote.
        device: Where to put the model.

    Returns:
        The model in evaluation mode and its tokenizer.

    Raises:
        FileNotFoundError: If the file or the model is missing.
        ValueError: If the file is not understood or the weights are not the pinned ones.
    """
    pins = read_manifest(file)
    beside = file.parent / pins["path"]
    folder = beside if beside.is_dir() else resolve_model(pins["path"], pins["revision"]).folder
    model, tokenizer = load_model(folder, device, pins["dtype"])
    if (found := fingerprint(model)) != pins["fingerprint"]:
        raise ValueError(
            f"{file}: pins weights {pins['fingerprint'][:12]}, but those in {folder} are "
            f"{found[:12]}; run the stage pretrain again"
        )
    return model, tokenizer


def read_manifest(file: Path) -> dict[str, Any]:
    """Return what `model.json` says: path, revision, dtype, fingerprint, parameters and the rest.

    Args:
        file: The file that the stage `pretrain` wrote.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no JSON of this version.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; run the stage pretrain first")
    try:
        pins = json.loads(file.read_text(encoding="utf-8"))
        if pins["scheme"] != SCHEME:
            raise ValueError(f"version {pins['scheme']}, this program reads {SCHEME}")
        missing = {"path", "revision", "dtype", "fingerprint"} - set(pins)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: not the pins of a model ({first_line(error)})") from None
    if missing:
        raise ValueError(f"{file}: not the pins of a model (no {sorted(missing)[0]!r})")
    return cast("dict[str, Any]", pins)


def manifest(model: PreTrainedModel, path: str, revision: str) -> dict[str, Any]:
    """Return the content of `model.json` for a model.

    Args:
        model: The model as loaded.
        path: Hub id, absolute folder, or a folder relative to that of `model.json`.
        revision: Commit of a hub model; empty for a folder.

    Returns:
        What `open_model` needs to find the same weights again, and their number.
    """
    return {
        "scheme": SCHEME,
        "path": path,
        "revision": revision,
        "dtype": str(model.dtype).removeprefix("torch."),
        "fingerprint": fingerprint(model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "architecture": str(model.config.model_type),
        "context": context_length(model),
    }


def fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 over all parameters by sorted name, tied ones once [64 hex digits]."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        stored = parameter.detach().cpu().contiguous()
        digest.update(f"{name} {stored.dtype} {tuple(stored.shape)}\n".encode())
        digest.update(stored.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def context_length(model: PreTrainedModel) -> int:
    """Return the longest sequence that a model takes [tokens].

    Args:
        model: A Hugging Face decoder.

    Returns:
        The length.

    Raises:
        ValueError: If the configuration does not say it.
    """
    length = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(length, int) or length < 1:
        raise ValueError("the model's configuration has no max_position_embeddings")
    return length


def _check_finite(model: PreTrainedModel, name: str) -> None:
    for parameter, values in model.named_parameters():
        if not bool(torch.isfinite(values).all()):
            raise ValueError(f"model {name!r}: weights of {parameter} are not finite")


def _device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device {name!r} is not there ({first_line(error)})") from None
