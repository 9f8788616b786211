"""What is wrong with the files of a model, in words that say what to do."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

POINTER = b"version https://git-lfs.github.com/spec/"
"""How a pointer of Git LFS begins; a checkout without Git LFS has it in place of the weights."""


def file_error(path: Path) -> str:
    """Return why a file is no model, which is a folder; empty text if there is no such file."""
    if not path.is_file():
        return ""
    if path.suffix.lower() == ".gguf":
        return (
            "a GGUF file is not read here; name it as pretrain.model, whose stage converts it to a "
            "Hugging Face folder, and give data/pretrain/model.json"
        )
    return "is a file; a model is a folder with config.json, safetensors and a tokenizer"


def pointer_error(folder: Path) -> str:
    """Return which weights of a folder are pointers of Git LFS; empty text if none are."""
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            if file.read(len(POINTER)) == POINTER:
                return (
                    f"{path} is a pointer of Git LFS, not the weights; run `git lfs pull` in that "
                    "folder, or download the model with `hf download`"
                )
    return ""


def vocabulary_error(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return which token a tokenizer has beyond a model's embedding; empty text if none is.

    Special tokens beyond it are let pass, as published models have some that no text contains
    (image placeholders of a text model), unless each text begins or ends with them.
    """
    rows = len(cast("Tensor", model.get_input_embeddings().weight))
    ends = {tokenizer.bos_token, tokenizer.eos_token}
    special = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
    unused = special - ends
    beyond = {
        token: index
        for token, index in tokenizer.get_vocab().items()
        if index >= rows and token not in unused
    }
    if not beyond:
        return ""
    token, index = max(beyond.items(), key=lambda pair: pair[1])
    return (
        f"its tokenizer has token {token!r} at {index}, its embedding {rows} rows (0 to "
        f"{rows - 1}); the tokenizer is another model's, or tokens were added without "
        "resize_token_embeddings"
    )
