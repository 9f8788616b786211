"""What a search leaves on disk, and where it resumes from."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from knowsub.discovery.checkpoint import Checkpoints
from knowsub.discovery.options import TrainOptions
from knowsub.discovery.trainer import Found
from knowsub.masks.io import save_mask
from knowsub.masks.mask import Mask


def checkpoints_of(
    root: Path, options: TrainOptions, target: str, seed: int, inputs: Sequence[Path]
) -> Checkpoints:
    """Return the checkpoints of one search, under a name that all it depends on is hashed into.

    Args:
        root: Folder of all checkpoints.
        options: How the search goes.
        target: Name of the target KG.
        seed: Seed of the search.
        inputs: Files that it reads.

    Returns:
        The checkpoints; another code, option or input never finds them.

    Raises:
        FileNotFoundError: If an input is missing.
    """
    digest = hashlib.sha256(json.dumps([asdict(options), target, seed]).encode())
    rooms = (Path(__file__).parent, Path(__file__).parent.parent / "masks")
    code = sorted(path for room in rooms for path in room.glob("*.py"))
    for path in (*code, *inputs):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    identity = digest.hexdigest()
    return Checkpoints(root / identity[:16], identity)


def write_found(folder: Path, mask: Mask, found: Found, options: TrainOptions) -> list[Path]:
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
