"""The model that a command names, with masks of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from knowsub.anatomy import Site, block_count, sites
from knowsub.lm.load import fingerprint, load_model, open_model, read_pins
from knowsub.lm.source import resolve
from knowsub.masks.io import check_model, load_mask
from knowsub.masks.mask import Mask
from knowsub.masks.removal import removed


@dataclass(frozen=True)
class Opened:
    """A model that a command works on."""

    model: PreTrainedModel
    """The model."""
    tokenizer: PreTrainedTokenizerBase
    """Its tokenizer."""
    name: str
    """Hub id or folder."""
    revision: str
    """Commit of a hub model; empty for a folder."""
    fingerprint: str
    """Fingerprint of its weights."""

    @property
    def sites(self) -> tuple[Site, ...]:
        """All matrices that a mask may cover."""
        return sites(self.model, range(block_count(self.model)))

    def mask(self, path: Path) -> Mask:
        """Return a mask of this model (ValueError if it is of another one)."""
        mask = load_mask(path)
        check_model(mask, self.fingerprint)
        return mask

    @contextmanager
    def views(self, without: Path | None) -> Iterator[dict[str, AbstractContextManager[None]]]:
        """Yield context managers: `original`, and `remaining` if a mask is named."""
        views: dict[str, AbstractContextManager[None]] = {"original": nullcontext()}
        if without is not None:
            views["remaining"] = removed(self.model, self.sites, self.mask(without))
        with torch.inference_mode():
            yield views


def open_named(name: str) -> Opened:
    """Open a model by what a user calls it.

    Args:
        name: A `model.json`, a Hugging Face folder, or a hub id.

    Returns:
        The model, on the CPU.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If it cannot be opened or is not the pinned one.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if name.endswith(".json"):
        pins = read_pins(Path(name))
        base, revision = str(Path(name).parent / pins["path"]), ""
        if not Path(base).is_dir():
            base, revision = pins["path"], pins["revision"]
        return Opened(*open_model(Path(name)), base, revision, pins["fingerprint"])
    source = resolve(name)
    model, tokenizer = load_model(source.folder)
    return Opened(model, tokenizer, name, source.revision, fingerprint(model))
