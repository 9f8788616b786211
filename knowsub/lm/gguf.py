"""Turns a GGUF file, the format of llama.cpp, into an ordinary safetensors folder.

The weights of such a file are mostly quantized. They are dequantized once, by transformers; the
folder's float32 weights are exactly what the file's numbers stand for. Needs the extra `gguf`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from knowsub.architectures import block_count
from knowsub.lm.export import save_model
from knowsub.lm.load import (
    ModelFiles,
    check_model_folder,
    first_line,
    load_model,
    resolve_model,
)
from knowsub.lm.nf4 import quantize
from knowsub.ranges import block_range

MAGIC = b"GGUF"
"""First bytes of a GGUF file."""
BYTES_PER_WEIGHT = 4.1
"""Of the folder, tokenizer included [bytes per weight]."""


@dataclass(frozen=True, slots=True)
class GgufFile:
    """What a GGUF file says of itself."""

    architecture: str
    """llama.cpp's name of the architecture, such as `gemma3`."""
    quantization: str
    """Type that most of the weights have, such as `Q4_K`."""
    weights: int
    """Number of weights in all tensors."""


def find_pretrained(
    name: str, revision: str, nf4_blocks: str, dtype: str, folder: Path, root: Path
) -> tuple[ModelFiles, dict[str, Any]]:
    """Return where a pretrained model is: a folder, a hub id, or a GGUF file.

    Args:
        name: Folder, hub id, or path of a `.gguf` file.
        revision: Git revision of a hub model, SHA-256 of a GGUF file, or empty.
        nf4_blocks: Blocks whose matrices are kept in nf4: `none`, `lower_half` or `first-end`.
        dtype: Number format of all other weights then.
        folder: Where the weights of a GGUF file go, dequantized, and of a model that is kept in nf4
            in some blocks; it lies in the folder of the manifest.
        root: The checkout; below `.checkpoints/gguf` it keeps the folder of each GGUF file, so that
            a file is dequantized once.

    Returns:
        The files, and what the manifest says beyond what it says of all models: of a GGUF file
        `gguf`, its name, SHA-256 and quantization; with blocks in nf4 `nf4`, these blocks and the
        model's name and revision.

    Raises:
        FileNotFoundError: If there is no such model.
        ModuleNotFoundError: If the extra `gguf` or `nf4` is missing.
        ValueError: As in `dequantize` and `resolve_model`, `load_model` and `quantize`; or if the
            model has no such blocks.
    """
    whole = folder if nf4_blocks == "none" else folder.with_name(f"{folder.name}.full")
    if name.endswith(".gguf"):
        origin = dequantize(Path(name), whole, root / ".checkpoints/gguf", revision)
        files, known = ModelFiles(whole, whole.name, ""), {"gguf": origin}
    else:
        files, known = resolve_model(name, revision), {}
    if nf4_blocks != "none":
        blocks = _write_in_nf4(files.folder, folder, nf4_blocks, dtype)
        source = {"source": Path(name).name if known else files.path, "revision": files.revision}
        files, known = ModelFiles(folder, folder.name, ""), known | {"nf4": source | blocks}
        shutil.rmtree(whole, ignore_errors=True)
    return files, known


def _write_in_nf4(source: Path, folder: Path, named: str, dtype: str) -> dict[str, Any]:
    """Write a model with the matrices of some blocks in nf4; return `blocks`, their indices."""
    model, tokenizer = load_model(source, dtype=dtype)
    blocks = block_range(named, block_count(model), "pretrain.nf4_blocks")
    save_model(quantize(source, model, blocks), tokenizer, folder)
    if (card := source / "README.md").is_file():  # it names the licence
        shutil.copyfile(card, folder / card.name)
    return {"blocks": [blocks.start, blocks.stop]}


def dequantize(path: Path, folder: Path, kept: Path, sha256: str = "") -> dict[str, str]:
    """Write the model and the tokenizer of a GGUF file as a Hugging Face folder in float32.

    Args:
        path: The file.
        folder: Folder to write; it must not exist.
        kept: Where the folder of each file is kept, so that a file is dequantized once.
        sha256: What the file's SHA-256 must be; empty for whatever it is [64 hex digits].

    Returns:
        For the manifest: `source` (the file's name), `sha256` and `quantization`.

    Raises:
        FileNotFoundError: If there is no such file.
        ModuleNotFoundError: If the extra `gguf` is not installed.
        ValueError: If it is no GGUF file, another file than `sha256` says, of an architecture that
            transformers or this library does not know, or damaged.
        OSError: If the disk has no room for the folder.
    """
    actual = _check_file(path, sha256)
    described, done = read_header(path), kept / actual
    kept.mkdir(parents=True, exist_ok=True)
    if not done.is_dir():
        _require_room(path, kept, described)
        with tempfile.TemporaryDirectory(prefix=".gguf-", dir=kept) as scratch:
            whole = Path(scratch) / "model"
            _convert(path, whole)
            check_model_folder(whole, str(path))
            whole.replace(done)
    shutil.copytree(done, folder, copy_function=_link)
    return {"source": path.name, "sha256": actual, "quantization": described.quantization}


def _link(source: str, target: str) -> None:
    """Give a file a second name, or copy it where the file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _check_file(path: Path, sha256: str) -> str:
    """Return the SHA-256 of a GGUF file; see `dequantize` for what is refused."""
    if not path.is_file():
        raise FileNotFoundError(f"model {str(path)!r}: no such file")
    if sha256 and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError(
            f"pretrain.revision: value {sha256!r} is not allowed for a GGUF file; allowed: its "
            "SHA-256 of 64 hex digits, or empty"
        )
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise ValueError(f"model {str(path)!r}: not a GGUF file, it does not begin with GGUF")
        file.seek(0)
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 and actual != sha256:
        raise ValueError(
            f"model {str(path)!r}: SHA-256 is {actual}, pretrain.revision asks for {sha256}"
        )
    if importlib.util.find_spec("gguf") is None:
        raise ModuleNotFoundError(
            f"model {str(path)!r}: GGUF files need the extra gguf; pip install 'knowsub[gguf]'"
        )
    return actual


def read_header(path: Path) -> GgufFile:
    """Return what a GGUF file says of itself.

    Args:
        path: The file.

    Returns:
        Architecture, most frequent type of its weights, and their number.

    Raises:
        ValueError: If the file is damaged.
    """
    from gguf import GGUFReader  # the extra

    try:
        reader: Any = GGUFReader(path)
        field = reader.fields["general.architecture"]
        name = bytes(field.parts[field.data[0]]).decode()
        sizes = Counter[str]()
        for tensor in reader.tensors:
            sizes[tensor.tensor_type.name] += int(tensor.n_elements)
    except (ValueError, KeyError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"model {str(path)!r}: damaged GGUF file ({first_line(error)})") from None
    if not sizes:
        raise ValueError(f"model {str(path)!r}: a GGUF file without weights")
    return GgufFile(name, sizes.most_common(1)[0][0], sum(sizes.values()))


def _require_room(path: Path, folder: Path, described: GgufFile) -> None:
    """Raise an OSError if a disk has no room for the dequantized weights."""
    needed, free = int(BYTES_PER_WEIGHT * described.weights), shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"model {str(path)!r}: its float32 weights need {needed / 1e9:.1f} GB, "
            f"{folder} has {free / 1e9:.1f} GB left"
        )


def _convert(path: Path, folder: Path) -> None:
    """Write the model and tokenizer of a file to a folder."""
    logging.disable_progress_bar()
    options: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path.parent,
            dtype=torch.float32,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
        tokenizer = AutoTokenizer.from_pretrained(path.parent, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"model {str(path)!r}: could not be dequantized ({first_line(error)})"
        ) from None
    model, info = loaded
    if missing := sorted(info["missing_keys"]):  # they would have random values
        raise ValueError(f"model {str(path)!r}: the weights of {missing[0]} are missing")
    # The weights are plain numbers now; transformers would refuse to save what it calls quantized.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    save_model(model, tokenizer, folder)
