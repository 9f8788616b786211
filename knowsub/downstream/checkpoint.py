"""A finetuning run on disk, so that a long one goes on where it stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from knowsub.sealed import read_sealed, write_sealed


def save_checkpoint(
    path: Path,
    trained: Sequence[Tensor],
    best: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    progress: Mapping[str, Any],
) -> None:
    """Write a run's state atomically.

    Args:
        path: File to write; its folder is made.
        trained: The tensors in training.
        best: Their values at the best evaluation so far.
        optimizer: AdamW over `trained`, in this order.
        progress: Everything else, as JSON can hold it.

    Raises:
        OSError: If the file cannot be written; an older file is left as it was.
    """
    groups = {"trained": list(trained), "best": list(best)}
    for number, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            groups[f"{name}.{number}"] = [value]
    arrays = {
        f"{name}/{index}": tensor.detach().cpu().float().numpy()
        for name, tensors in groups.items()
        for index, tensor in enumerate(tensors)
    }
    write_sealed(path, arrays, progress)


@torch.no_grad()
def load_checkpoint(
    path: Path, trained: Sequence[Tensor], best: Sequence[Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Put a run's state back.

    Args:
        path: A file that `save_checkpoint` wrote of the same run.
        trained: The tensors in training; overwritten.
        best: Their values at the best evaluation; overwritten.
        optimizer: Optimiser over `trained`; its state is overwritten.

    Returns:
        The progress that was written.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is corrupt or of another run.
    """
    try:
        arrays, progress = read_sealed(path)
    except ValueError as error:
        raise ValueError(f"{error}; delete it to start afresh") from None
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    for name, own in (("trained", trained), ("best", best)):
        for index, tensor in enumerate(own):
            saved = tensors.get(f"{name}/{index}")
            if saved is None or saved.shape != tensor.shape:
                raise ValueError(f"{path}: belongs to another run; delete it to start afresh")
            tensor.copy_(saved)
    whole = optimizer.state_dict()
    whole["state"] = {
        index: {
            key: tensors[f"{key}.{index}/0"]
            for key in ("step", "exp_avg", "exp_avg_sq")
            if f"{key}.{index}/0" in tensors
        }
        for index in range(len(trained))
    }
    optimizer.load_state_dict(whole)
    return progress
