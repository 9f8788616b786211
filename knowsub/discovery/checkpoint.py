"""Where a search stands on disk, what it resumes from, and what it leaves."""

from __future__ import annotations

import csv
import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from knowsub.artifacts import read_checksummed, remove_stale_partials, write_checksummed
from knowsub.discovery.options import TrainOptions
from knowsub.discovery.selection import SearchResult
from knowsub.masks.mask import Mask, save_mask


class Checkpoints:
    """The checkpoints of one search, in a folder of their own outside the stage's outputs.

    The same search may run twice at the same time, in two copies of the checkout: both write the
    same files here, and either may be the first to delete them.

    Args:
        folder: Where the checkpoints lie.
        identity: Hash of everything that the search depends on, see `provenance.stage_key`; a
            checkpoint of another identity is never resumed.
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
        write_checksummed(self.folder / f"step-{step:08d}.safetensors", arrays, description)
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
                arrays, description = read_checksummed(path)
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
        remove_stale_partials(self.folder)
        with suppress(OSError):  # not empty, or gone already
            self.folder.rmdir()

    def _found(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.safetensors"))


def write_search_result(
    folder: Path, mask: Mask, found: SearchResult, options: TrainOptions
) -> list[Path]:
    """Write a search's result.

    Args:
        folder: Folder to write into; made if there is none.
        mask: The mask of the chosen candidate.
        found: The result of the search.
        options: How it was searched for; stored in the mask's header too.

    Returns:
        The files: `mask.safetensors`, `training.json`, and `curve.csv` with every step's figures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chosen, training, curve = asdict(found.chosen), folder / "training.json", folder / "curve.csv"
    described = {**mask.meta, "options": json.dumps(asdict(options), sort_keys=True)}
    save_mask(Mask(mask.bits, mask.model, described), folder / "mask.safetensors")
    summary = {
        "sparsity": mask.sparsity,
        "weights": mask.size,
        "maskable": mask.maskable,
        "chosen": chosen,
        "qualified": found.qualified,
        "options": asdict(options),
    }
    training.write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    columns = list(dict.fromkeys(name for row in found.curve for name in row))
    with curve.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {name: f"{value:.6g}" for name, value in row.items()} for row in found.curve
        )
    return [folder / "mask.safetensors", training, curve]
