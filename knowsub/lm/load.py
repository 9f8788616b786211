"""Finds, checks and opens language models, and says exactly which weights they are.

Only safetensors are read, and no code that comes with a model is run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
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
from knowsub.artifacts import differing_parts
from knowsub.lm.batch import is_chat, open_chat
from knowsub.lm.blocks import cut_error
from knowsub.lm.checks import file_error, pointer_error, vocabulary_error
from knowsub.lm.identity import config_values, differing_values, identity, parts_of
from knowsub.lm.nf4 import compute_alike, is_nf4


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
    """Return where a model's files are, downloading them from the hub if necessary.

    Args:
        name: A local folder or a hub id such as `gpt2` or `Qwen/Qwen3-0.6B`.
        revision: Branch, tag or commit of a hub model; empty for its main branch.

    Returns:
        The folder, with the commit that the revision stood for.

    Raises:
        FileNotFoundError: If the name is not a folder and could not be downloaded, or the hub's
            cache holds a part of it; the message says how to download it.
        ValueError: If the folder holds no model, no safetensors, or an unknown architecture.
    """
    local = Path(name)
    if local.is_dir():
        files = ModelFiles(local.resolve(), str(local.resolve()), "")
    elif error := file_error(local):
        raise ValueError(f"model {name!r}: {error}")
    elif name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"model {name!r}: no such folder")
    else:
        folder = _download(name, revision)
        files = ModelFiles(folder, name, folder.name)
    check_model_folder(files.folder, name)
    return files


def _download(name: str, revision: str) -> Path:
    """Return the folder of a hub model in the hub's cache, complete."""
    command = f"hf download {name}{f' --revision {revision}' if revision else ''}"
    try:
        folder = Path(
            snapshot_download(
                name,
                revision=revision or None,
                allow_patterns=["*.safetensors", "*.json", "*.txt", "*.model", "README.md"],
                ignore_patterns=["*/*"],
            )
        )
    except (OSError, ValueError) as error:
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else first_line(error)
        raise FileNotFoundError(
            f"model {name!r}{f' at {revision!r}' if revision else ''}: no such folder, not in the "
            f"local cache, and could not be downloaded ({reason}); download it with `{command}` or "
            "give the path of a folder"
        ) from None
    if missing := _missing_file(folder):
        raise FileNotFoundError(
            f"model {name!r}: its copy in the hub's cache has no {missing} ({folder}); download "
            f"it with `{command}`; a model that comes without safetensors must be saved again "
            "with save_pretrained"
        )
    return folder


def _missing_file(folder: Path) -> str:
    """Return the first file that a downloaded model lacks; the cache may hold a part of a model."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = json.loads(index.read_text(encoding="utf-8")).get("weight_map", {})
        weights = sorted(set(weight_map.values()))
    else:
        weights = [] if any(folder.glob("*.safetensors")) else ["model.safetensors"]
    return next((name for name in ["config.json", *weights] if not (folder / name).is_file()), "")


def check_model_folder(folder: Path, name: str) -> None:
    """Require a readable configuration, a known architecture, safetensors and no adapter.

    ValueError if one is missing, or there is an adapter.
    """
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"model {name!r}: {folder} holds an adapter (adapter_config.json), whose weights would "
            "change the model without being part of it; merge it (merge_and_unload of peft), save "
            "the merged model and name that folder, or take the file out; in Python, open its base "
            "and put the adapter on top: knowsub.ablated removes a mask beneath it"
        )
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"model {name!r}: the folder {folder} is no model, it has no config.json")
    try:
        model_type = json.loads(path.read_text(encoding="utf-8"))["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: not the configuration of a model ({first_line(error)})"
        ) from None
    architecture(cast(nn.Module, SimpleNamespace(config=SimpleNamespace(model_type=model_type))))
    if not any(folder.glob("*.safetensors")):
        others = sorted(path.name for path in folder.glob("*.bin")) or ["no weights at all"]
        raise ValueError(
            f"model {name!r}: no safetensors in {folder} ({others[0]}); pickled weights are "
            "refused, save the model again with save_pretrained"
        )
    if fault := pointer_error(folder):
        raise ValueError(f"model {name!r}: {fault}")


def first_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message, for a message of one line."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def load_model(
    folder: Path, device: str = "cpu", dtype: str = "float32", chat: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model and the tokenizer of a Hugging Face folder.

    Args:
        folder: The folder, with `config.json`, safetensors and a tokenizer.
        device: `cpu`, `cuda`, `cuda:1`, `mps` ...
        dtype: `float32`, `bfloat16`, `float16`, or `auto` for that of the checkpoint, which a
            model with blocks in nf4 always has.
        chat: Whether prompts are the user's turn of its chat template; see `open_chat`.

    Returns:
        The model in evaluation mode, its parameters needing no gradient, and the tokenizer.

    Raises:
        FileNotFoundError: If there is no such folder.
        ModuleNotFoundError: If some weights are in nf4 and the extra `nf4` is not installed.
        ValueError: If it holds no model, no safetensors, an adapter, an unknown architecture,
            weights that do not fit or are not finite, no tokenizer, or no chat template where one
            is wanted; if the device does not exist; if the model computes otherwise than its row
            of `ARCHITECTURES` says.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"model {str(folder)!r}: no such folder")
    check_model_folder(folder, str(folder))
    _require_device(device)
    loaded, tokenizer = _open(folder, device, dtype)
    model, info = loaded
    _require_every_tensor(str(folder), info["missing_keys"], info["unexpected_keys"])
    for name, values in model.named_parameters():
        if not all(bool(torch.isfinite(part).all()) for part in parts_of(values).values()):
            raise ValueError(f"model {str(folder)!r}: weights of {name} are not finite")
    if fault := vocabulary_error(model, tokenizer):
        raise ValueError(f"model {str(folder)!r}: {fault}")
    compute_alike(model)
    ready: PreTrainedModel = model.requires_grad_(False).to(device).eval()
    _require_exact_cut(ready, str(folder))
    if chat:
        open_chat(tokenizer)
    return ready, tokenizer


def _open(folder: Path, device: str, dtype: str) -> tuple[Any, PreTrainedTokenizerBase]:
    """Return what transformers makes of a folder: (model, what did not fit), and the tokenizer."""
    logging.disable_progress_bar()
    placed: dict[str, Any] = {}
    if is_nf4(folder):
        placed, dtype = {"device_map": {"": device}}, "auto"
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
            local_files_only=True,
            **placed,
        )
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise ValueError(
            f"model {str(folder)!r}: could not be opened ({first_line(error)})"
        ) from None
    return loaded, tokenizer


BUFFERS = re.compile(r"\.(attn|attention)\.(masked_)?bias$|\.rotary_emb\.inv_freq$")
"""Masks and frequencies that older checkpoints stored and no model reads any more."""


def _require_every_tensor(name: str, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """Raise a ValueError if a checkpoint lacks weights, or has more than the model reads."""
    if lacking := sorted(missing):
        raise ValueError(f"model {name!r}: the weights of {_first_few(lacking)} are missing")
    if left_over := sorted(key for key in unexpected if not BUFFERS.search(key)):
        raise ValueError(
            f"model {name!r}: the checkpoint has weights that its architecture does not read: "
            f"{_first_few(left_over)}; they would be ignored without a word (an adapter has to be "
            "merged before)"
        )


def _first_few(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


MAX_CUT_ERROR = {torch.float32: 1e-4, torch.float64: 1e-4}
"""Largest relative difference between a cut model's logits and its own [fraction]."""
MAX_CUT_ERROR_HALF = 3e-2
"""The same in bfloat16 and float16: a few units of their last digit, 2^-8 in bfloat16."""


def _require_exact_cut(model: PreTrainedModel, name: str) -> None:
    """Raise a ValueError if a model computes otherwise than its row of `ARCHITECTURES` says."""
    error, limit = cut_error(model), MAX_CUT_ERROR.get(model.dtype, MAX_CUT_ERROR_HALF)
    # NaN: the model itself overflows; that is said where a figure comes of it.
    if error > limit:
        raise ValueError(
            f"model {name!r}: its row {model.config.model_type!r} of ARCHITECTURES does not fit: "
            f"cut in the middle and joined again, its logits differ by {error:.2g} of the largest "
            f"(at most {limit:g})"
        )


def _require_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device {name!r} is not there ({first_line(error)})") from None


SCHEME = 2
"""Version of the manifest; another one is refused."""


def open_model(
    path: Path, device: str = "cpu", dtype: str = ""
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model of a manifest; weights, configuration and tokenizer are those pinned there.

    Args:
        path: The manifest, `model.json`, that the stage `pretrain` wrote.
        device: Where to put the model.
        dtype: As in `load_model`; empty for the manifest's.

    Returns:
        The model in evaluation mode and its tokenizer.

    Raises:
        FileNotFoundError: If the manifest or the model is missing.
        ValueError: If the manifest is invalid or the model is not the one that it names; the
            message says what differs.
    """
    entry = read_manifest(path)
    local = path.parent / entry["path"]
    folder = local if local.is_dir() else resolve_model(entry["path"], entry["revision"]).folder
    chat = bool(entry.get("chat"))
    model, tokenizer = load_model(folder, device, dtype or entry["dtype"], chat)
    # Weights in another dtype have this fingerprint once they are cast to the manifest's.
    actual = identity(model, tokenizer, getattr(torch, entry["dtype"]))
    if actual != entry["fingerprint"]:
        parts = differing_parts(entry["fingerprint"], actual)
        values = ", ".join(differing_values(entry["config"], config_values(model.config)))
        raise ValueError(
            f"{path}: the {parts} in {folder} changed since it was written"
            f"{values and f' ({values})'}; run `{REPIN}`, then `dvc repro`"
        )
    return model, tokenizer


REPIN = "dvc repro --force --single-item pretrain"
"""Command that pins the model that is there now."""


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the content of a manifest; see `manifest`.

    Args:
        path: The manifest, `model.json`, that the stage `pretrain` wrote.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not JSON of this version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; run the stage pretrain first")
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        if entry["scheme"] != SCHEME:
            found = f"version {entry['scheme']}, this program reads {SCHEME}"
            raise ValueError(f"{found}; run `{REPIN}`")
        if missing := {"path", "revision", "dtype", "fingerprint", "config"} - set(entry):
            raise ValueError(f"no {sorted(missing)[0]!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the manifest of a model ({first_line(error)})") from None
    return cast("dict[str, Any]", entry)


def manifest(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: str, revision: str
) -> dict[str, Any]:
    """Return what `open_model` needs to find the same model again, and what it is.

    Args:
        model: The model as loaded.
        tokenizer: Its tokenizer as loaded.
        path: Hub id, absolute folder, or a folder relative to that of `model.json`.
        revision: Commit of a hub model; empty for a folder.

    Returns:
        The content of `model.json`.
    """
    return ({"chat": True} if is_chat(tokenizer) else {}) | {
        "scheme": SCHEME,
        "path": path,
        "revision": revision,
        "dtype": str(model.dtype).removeprefix("torch."),
        "fingerprint": identity(model, tokenizer),
        "config": config_values(model.config),
        "parameters": model.num_parameters(),
        "architecture": str(model.config.model_type),
        "context": context_length(model),
    }


def write_manifest(path: Path, content: dict[str, Any]) -> Path:
    """Write a manifest; return its path."""
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return path


def context_length(model: PreTrainedModel) -> int:
    """Return the longest sequence that a model takes [tokens]; ValueError if it does not say.

    Without position embeddings (BLOOM) that is the length that it was trained with.
    """
    config = model.config
    length = getattr(config, "max_position_embeddings", None) or getattr(config, "seq_length", None)
    if not isinstance(length, int) or length < 1:
        raise ValueError("the model's configuration has no max_position_embeddings")
    return length
