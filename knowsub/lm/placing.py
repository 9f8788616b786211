"""Tensors from one device to another without a wait.

A GPU works through what it is given while the next orders are prepared. To ask it for a value, or
how many entries of a mask are true, is to wait until it has done everything. What a step needs to
know to give its orders therefore stays on the CPU, and goes over as indices.
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor


def beside(tensor: Tensor, other: Tensor) -> Tensor:
    """Return a tensor where another one is; a copy from the CPU to a GPU is not waited for.

    Args:
        tensor: On the CPU, or already there.
        other: Anything on the device.

    Returns:
        The tensor itself if it is there.
    """
    return tensor.to(other.device, non_blocking=other.device.type != "cpu")


def rows_of(kept: Tensor, index: Int[Tensor, " row"] | slice) -> Tensor:
    """Return rows of a tensor on any device, chosen by an index on the CPU.

    Args:
        kept: The tensor.
        index: The rows.

    Returns:
        The rows, where the tensor is.
    """
    return kept[index] if isinstance(index, slice) else kept[beside(index, kept)]


def places(chosen: Tensor) -> Int[Tensor, " place"]:
    """Return where a mask is true, counted through it row by row.

    Args:
        chosen: The mask, of any shape; on a GPU it would be waited for.

    Returns:
        The places in ascending order.
    """
    found: Tensor = torch.nonzero(chosen.flatten())
    return found[:, 0]
