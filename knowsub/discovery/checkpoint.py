"""Checkpoints of a search: what an interrupted one resumes from."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from knowsub.artifacts import read_checksummed, remove_stale_partials, write_checksummed


class Checkpoints:
    """The checkpoints of one search, in a folder of their own outside the stage's outputs.

    The same search may run twice at once, in two copies of the checkout: both write the same files
    here, and either may delete them first.

    Args:
        folder: Folder of the checkpoints; it is made.
        identity: Hash of all that the search depends on, see `provenance.stage_key`; only
            checkpoints of it are resumed.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder = folder
        self.identity = identity
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Write a checkpoint and delete all but the last two.

        Args:
            step: Number of steps done.
            tensors: Logits, optimizer moments, random state.
            state: The rest, as JSON.

        Raises:
            OSError: If it cannot be written; older checkpoints are not changed then.
        """
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        description = {"identity": self.identity, "step": step, "state": state}
        write_checksummed(self.folder / f"step-{step:08d}.safetensors", arrays, description)
        for old in self._paths()[:-2]:
            old.unlink(missing_ok=True)

    def load(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """Return the newest intact checkpoint of this search, or None.

        Returns:
            Steps done, tensors on the CPU, state.
        """
        for path in reversed(self._paths()):
            try:
                arrays, description = read_checksummed(path)
            except (ValueError, FileNotFoundError):  # damaged, or deleted by the search's twin
                continue
            if description.get("identity") == self.identity:
                tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
                return int(description["step"]), tensors, description["state"]
        return None

    def clear(self) -> None:
        """Delete the checkpoints, once the search's result is written."""
        for path in self._paths():
            path.unlink(missing_ok=True)
        remove_stale_partials(self.folder)
        with suppress(OSError):  # not empty, or gone already
            self.folder.rmdir()

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.safetensors"))
