"""Where a search stands, on disk: sealed, written atomically, the last two kept."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from knowsub.sealed import drop_partials, read_sealed, write_sealed


class Checkpoints:
    """The checkpoints of one search, in a folder of their own outside the stage's outputs.

    The same search may run twice at the same time, in two copies of the checkout: both write the
    same files here, and either may be the first to delete them.

    Args:
        folder: Where the checkpoints lie.
        identity: Hash of everything that the search depends on; a checkpoint of another
            identity is never resumed.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder = folder
        self.identity = identity
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Write a checkpoint and drop all but the last two.

        Args:
            step: Number of steps done.
            tensors: Logits, optimiser moments, random state.
            state: The rest, as JSON.

        Raises:
            OSError: If it cannot be written; the older checkpoints are left as they were.
        """
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        description = {"identity": self.identity, "step": step, "state": state}
        write_sealed(self.folder / f"step-{step:08d}.safetensors", arrays, description)
        for old in self._found()[:-2]:
            old.unlink(missing_ok=True)

    def load(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """Return the newest whole checkpoint of this search, or None.

        A damaged or foreign file is passed over in favour of the one before it.

        Returns:
            Steps done, tensors on the CPU, state.
        """
        for path in reversed(self._found()):
            try:
                arrays, description = read_sealed(path)
            except (ValueError, FileNotFoundError):
                continue
            if description.get("identity") == self.identity:
                tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
                return int(description["step"]), tensors, description["state"]
        return None

    def clear(self) -> None:
        """Delete the checkpoints, once the result they led to is safe."""
        for path in self._found():
            path.unlink(missing_ok=True)
        drop_partials(self.folder)
        with suppress(OSError):  # not empty, or gone already
            self.folder.rmdir()

    def _found(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.safetensors"))
