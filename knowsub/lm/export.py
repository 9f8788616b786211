"""Writes a remaining model as an ordinary Hugging Face folder with a model card."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from knowsub.lm.identity import fingerprint


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What the card of a remaining model says."""

    base: str
    """Hub id or folder of the original model."""
    revision: str
    """Commit of the original model on the hub; empty for a folder."""
    base_fingerprint: str
    """Fingerprint of the original model's weights."""
    knowledge: str
    """What was removed, such as `building.n.01`."""
    removed: int
    """Weights set to zero [weights]."""
    maskable: int
    """Weights that the mask could have chosen [weights]."""
    made: Mapping[str, str]
    """How the mask was made, name -> value: its file's header."""


def export_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, card: ModelCard
) -> None:
    """Write a remaining model; the whole folder, or nothing.

    Args:
        model: The remaining model, its removed weights at zero.
        tokenizer: Its tokenizer.
        folder: Folder to write; it must not exist.
        card: What `README.md` in the folder says.

    Raises:
        ValueError: If the folder exists.
    """
    if folder.exists():
        raise ValueError(f"{folder}: exists already; name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        save_model(model, tokenizer, partial)
        (partial / "README.md").write_text(_card_text(model, card), encoding="utf-8")
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write configuration, safetensors and tokenizer as Hugging Face lays them out."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _card_text(model: PreTrainedModel, card: ModelCard) -> str:
    """Return the card, in Markdown with the hub's YAML front matter."""
    total = sum(parameter.numel() for parameter in model.parameters())
    on_hub = f"base_model: {card.base}\n" if card.revision else ""
    sparsity = 1 - card.removed / card.maskable
    at = f" at `{card.revision}`" if card.revision else ""
    rows = "\n".join(f"| {name} | {value} |" for name, value in sorted(card.made.items()))
    return f"""---
library_name: transformers
{on_hub}tags:
- knowsub
- knowledge-removal
---

# `{Path(card.base).name}` without `{card.knowledge}`

A knowledge-critical subnetwork was removed: its weights are zero, all others are the original's.

| | |
|---|---|
| original model | `{card.base}`{at} |
| original weights (SHA-256) | `{card.base_fingerprint}` |
| these weights (SHA-256) | `{fingerprint(model)}` |
| removed knowledge | {card.knowledge} |
| removed weights | {card.removed:,} |
| sparsity of the subnetwork | {sparsity:.4%} of {card.maskable:,} maskable weights are not in it |
| share of all parameters removed | {card.removed / total:.4%} of {total:,} |

How the mask was made:

| | |
|---|---|
{rows}

Removal was tested on the statements that the report of the run lists. It shows that the model no
longer produces these facts there; it is no proof that every trace is gone.
"""
