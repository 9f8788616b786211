"""How the gates of a model are divided into parts that several processes hold.

Every parameter that holds a maskable matrix is cut into as many equal ranges of its stored rows as
there are parts, which is how FSDP divides it (`Shard(0)`). Part i has the i-th range of each. Its
gates come after those of part i - 1, so that a process with neighbouring parts has one range of all
gates, and what is drawn for a part depends on the number of parts but not on that of processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from knowsub.architectures import MaskableMatrix
from knowsub.masks.weights import GateSlice

Gather = Callable[[Tensor], Tensor]
"""A tensor on any device -> those of all processes, stacked in their order."""


@dataclass(frozen=True)
class Shards:
    """The parts of all gates, and those of this process."""

    count: int = 1
    """Number of parts."""
    own: range = range(1)
    """Those of this process."""
    gather: Gather = lambda own: own[None]
    """Brings the processes' tensors together; all of them must call it."""

    @property
    def processes(self) -> int:
        """Number of processes that have parts."""
        return self.count // len(self.own)

    @property
    def rank(self) -> int:
        """Index of this process."""
        return self.own.start // len(self.own)

    def parts(self, gates: int) -> dict[int, slice]:
        """Return index of each own part -> its gates, of so many that this process has."""
        size = gates // len(self.own)
        return {each: slice(i * size, (i + 1) * size) for i, each in enumerate(self.own)}

    def total(self, own: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes, taken in their order."""
        return self.gather(own).sum(dim=0)


def shard_slices(
    slices: Sequence[GateSlice], shapes: Mapping[str, torch.Size], shards: Shards
) -> tuple[list[GateSlice], dict[str, list[slice]]]:
    """Return where the gates of this process lie, and where those of every matrix.

    Args:
        slices: Where the gates of every matrix lie without parts; each weight has its own.
        shapes: Parameter name -> its shape, (row, column).
        shards: The parts.

    Returns:
        The slices of this process's parts: within its own gates, and within the rows of the
        parameters that it holds. And by name of matrix, its gates among those of all parts; joined
        they are the matrix, row by row.

    Raises:
        ValueError: If rows cannot be divided so, or parts get different numbers of gates.
    """
    if shards.count == 1:
        return list(slices), {each.matrix.name: [each.part] for each in slices}
    own: list[GateSlice] = []
    places: dict[str, list[slice]] = {each.matrix.name: [] for each in slices}
    start, first = 0, 0
    for part in range(shards.count):
        first = start if part == shards.own.start else first
        for each in slices:
            matrix = _part(each.matrix, shapes[each.matrix.parameter], part, shards)
            if matrix is None:
                continue
            found = GateSlice(matrix, start, matrix.shape, math.prod(matrix.shape))
            places[matrix.name].append(found.part)
            start += found.size
            if part in shards.own:
                own.append(replace(found, start=found.start - first))
        if start * shards.count != (part + 1) * sum(each.size for each in slices):
            raise _refusal(shards, "parts of equal size, for a fused parameter is masked in part")
    return own, places


def _part(
    matrix: MaskableMatrix, shape: torch.Size, part: int, shards: Shards
) -> MaskableMatrix | None:
    """Return a part of a matrix, viewed in the process's rows of its parameter; None if empty."""
    total, width = shape
    first, end = (number * total // shards.count for number in (part, part + 1))
    axis = None if matrix.select is None else matrix.select[0]
    # stored rows that hold one entry of the first axis, of every matrix of the parameter
    unit = total // matrix.view_shape[0] if axis else 1
    if total % shards.count or first % unit or end % unit:
        raise _refusal(shards, f"a divisor of the rows or heads of {matrix.parameter}")
    own = shards.own.start * total // shards.count
    if axis:
        view_shape = ((end - first) // unit, *matrix.view_shape[1:])
        return replace(matrix, view_shape=view_shape, rows=(first - own, end - first))
    # its rows lie one after another
    low, count = matrix.rows or (0, total)
    if matrix.select is not None:
        count = total // matrix.view_shape[0]
        low = matrix.select[1] * count
    first, end = max(first, low), min(end, low + count)
    if end <= first:
        return None
    rows, shape = (first - own, end - first), torch.Size((end - first, width))
    return replace(matrix, view_shape=shape, select=None, axes=("out", "in"), rows=rows)


def _refusal(shards: Shards, allowed: str) -> ValueError:
    return ValueError(f"train.shards: value {shards.count} is not allowed; use {allowed}")
