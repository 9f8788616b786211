"""Writes a remaining model as an ordinary Hugging Face folder with a model card."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    nf4_blocks: Sequence[int] = ()
    """0-based indices of the blocks that were in nf4; here they hold what nf4 stands for."""
    license: str = ""
    """Licence of the original model, as the hub names it; empty if it is not known."""
    metrics: Mapping[str, str] = field(default_factory=dict)
    """What the removal did, metric -> value; empty if the mask was not tested."""


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
    """Write configuration, safetensors and tokenizer as Hugging Face lays them out.

    All files can be read by whom the umask says; safetensors alone would make its own private.
    """
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    mode = (folder / "config.json").stat().st_mode & 0o777
    for path in folder.glob("*.safetensors"):
        path.chmod(mode)


LOADING = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder, or its id on the hub
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
```"""
"""How the card says that a model is opened."""


def _card_text(model: PreTrainedModel, card: ModelCard) -> str:
    """Return the card, in Markdown with the hub's YAML front matter."""
    total = sum(parameter.numel() for parameter in model.parameters())
    on_hub = f"base_model: {card.base}\n" if card.revision else ""
    on_hub += f"license: {card.license}\n" if card.license else ""
    at = f" at `{card.revision}`" if card.revision else ""
    what = {
        "original model": f"`{card.base}`{at}",
        "original weights (SHA-256)": f"`{card.base_fingerprint}`",
        "these weights (SHA-256)": f"`{fingerprint(model)}`",
        "removed knowledge": card.knowledge,
        "removed weights": f"{card.removed:,}",
        "sparsity of the subnetwork": f"{1 - card.removed / card.maskable:.4%} of "
        f"{card.maskable:,} maskable weights are not in it",
        "share of all parameters removed": f"{card.removed / total:.4%} of {total:,}",
    }
    measured = f"What the removal did:\n\n{_rows(card.metrics)}\n\n" if card.metrics else ""
    return f"""---
library_name: transformers
pipeline_tag: text-generation
{on_hub}tags:
- knowsub
- knowledge-removal
---

# `{Path(card.base).name}` without `{card.knowledge}`

A knowledge-critical subnetwork was removed: its weights are zero, {_others(card)}.

{_rows(what)}

{LOADING}

{measured}How the mask was made:

{_rows(dict(sorted(card.made.items())))}

Removal was tested on the statements that the report of the run lists. It shows that the model no
longer produces these facts there; it is no proof that every trace is gone.
"""


def _others(card: ModelCard) -> str:
    """Return what the weights are that were not removed."""
    blocks = ", ".join(map(str, card.nf4_blocks))
    rounded = f", in blocks {blocks} as nf4 (4 bits) rounds them, which is what was tested"
    return f"all others are the original's{rounded if blocks else ''}"


def _rows(values: Mapping[str, str]) -> str:
    """Return a Markdown table of names and values."""
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {of} |" for name, of in values.items())])


def license_of(folder: Path) -> str:
    """Return the licence that the card in a model's folder names; empty if there is none."""
    card = folder / "README.md"
    if not card.is_file():
        return ""
    header = card.read_text(encoding="utf-8", errors="replace").partition("\n---")[0]
    found = re.search(r"^license: *[\"']?([\w.-]+)", header, re.MULTILINE)
    return found[1] if found and header.startswith("---") else ""
