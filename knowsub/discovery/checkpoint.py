"""Checkpoints of a search: what an interrupted one resumes from."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from knowsub.artifacts import read_checksummed, remove_stale_partials, write_checksummed
from knowsub.masks.shards import Shards

Tensors = dict[str, Tensor]
Saved = tuple[int, Tensors, dict[str, Any], dict[int, Tensors]]
"""Steps done, tensors on the CPU, state, tensors of each part of this process."""


KEPT = 8
"""Checkpoints that are looked at, at most: two, and those of searches that were killed before."""


class Checkpoints:
    """The checkpoints of one search, in a folder of their own outside the stage's outputs.

    The same search may run twice at once, in two copies of the checkout: both write the same files
    here, and either may delete them first.

    Where gates are divided into parts, each has a file of its own, which the process that has the
    part writes and reads. A checkpoint is there once its main file is, which is written last.

    Args:
        folder: Folder of the checkpoints; it is made.
        identity: Hash of all that the search depends on, see `provenance.stage_key`; only
            checkpoints of it are resumed.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder = folder
        self.identity = identity
        folder.mkdir(parents=True, exist_ok=True)

    def save(
        self,
        step: int,
        tensors: Tensors,
        state: dict[str, Any],
        parts: dict[int, Tensors] | None = None,
        shards: Shards | None = None,
    ) -> None:
        """Write a checkpoint and delete all but the last two.

        Args:
            step: Number of steps done.
            tensors: Logits, optimizer moments, random state.
            state: The rest, as JSON.
            parts: Tensors of each part of the gates that this process has.
            shards: Of the processes that have the parts, all of which call this.

        Raises:
            OSError: If it cannot be written; older checkpoints are not changed then.
        """
        shards = shards or Shards()
        for index, part in (parts or {}).items():
            self._write(self._part(step, index), step, part, {})
        shards.gather(torch.zeros(()))  # waits until all parts are there
        if shards.rank > 0:
            return
        self._write(self.folder / f"step-{step:08d}.safetensors", step, tensors, state)
        for old in self._paths()[:-2]:
            old.unlink(missing_ok=True)
            for part_of_old in self.folder.glob(f"{old.stem}.part-*"):
                part_of_old.unlink(missing_ok=True)

    def load(self, shards: Shards | None = None) -> Saved | None:
        """Return the newest intact checkpoint of this search, or None.

        All processes that have the shards call it, and get the same one, each with its parts.
        """
        shards = shards or Shards()
        steps = [int(path.stem.removeprefix("step-")) for path in self._paths()][-KEPT:]
        padded = torch.tensor([*steps, *[-1] * (KEPT - len(steps))])
        for step in reversed(shards.gather(padded)[0].tolist()):
            found = self._load(step, shards) if step >= 0 else None
            if bool(shards.gather(torch.tensor(int(found is not None))).all()):
                return found
        return None

    def _load(self, step: int, shards: Shards) -> Saved | None:
        """Return a checkpoint if it is intact and of this search."""
        main = self._read(self.folder / f"step-{step:08d}.safetensors")
        indices = shards.own if shards.count > 1 else range(0)
        parts = {index: self._read(self._part(step, index)) for index in indices}
        if main is None or any(part is None for part in parts.values()):
            return None
        of_parts = {index: part[0] for index, part in parts.items() if part is not None}
        return int(main[1]["step"]), main[0], main[1]["state"], of_parts

    def _write(self, path: Path, step: int, tensors: Tensors, state: dict[str, Any]) -> None:
        arrays = {name: own.detach().cpu().contiguous().numpy() for name, own in tensors.items()}
        description = {"identity": self.identity, "step": step, "state": state}
        write_checksummed(path, arrays, description)

    def _read(self, path: Path) -> tuple[Tensors, dict[str, Any]] | None:
        """Return what a file of this search holds, or None."""
        try:
            arrays, description = read_checksummed(path)
        except (ValueError, FileNotFoundError):  # damaged, or deleted by the search's twin
            return None
        if description.get("identity") != self.identity:
            return None
        return {name: torch.from_numpy(array) for name, array in arrays.items()}, description

    def clear(self) -> None:
        """Delete the checkpoints, once the search's result is written."""
        for path in self.folder.glob("step-*.safetensors"):
            path.unlink(missing_ok=True)
        remove_stale_partials(self.folder)
        with suppress(OSError):  # not empty, or gone already
            self.folder.rmdir()

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob(f"step-{'[0-9]' * 8}.safetensors"))

    def _part(self, step: int, index: int) -> Path:
        return self.folder / f"step-{step:08d}.part-{index}.safetensors"
