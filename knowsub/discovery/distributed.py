"""One search in several processes: each computes microbatches of a step, all take the same step.

Pieces are summed in their order whoever computed them, so that the result does not depend on the
number of processes, to the last bit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, distributed

from knowsub.masks.gates import chunks

T = TypeVar("T")


class ProcessGroup:
    """The processes of one search; without a launcher there is one.

    Args:
        rank: Index of this process.
        count: Number of processes.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and logs."""
        return self.rank == 0

    def only_first(self, context: AbstractContextManager[T]) -> AbstractContextManager[T | None]:
        """Return a context for the first process, and one that gives None for the others."""
        return context if self.first else nullcontext()

    def require_pieces(self, pieces: int) -> None:
        """Refuse a number of pieces that the processes cannot share.

        Args:
            pieces: Pieces that a step's batch is cut into.

        Raises:
            ValueError: If it is no multiple of the number of processes.
        """
        if pieces % self.count:
            raise ValueError(
                f"train.grad_accumulation: value {pieces} cannot be shared by {self.count} processes; "
                f"use a multiple of {self.count}"
            )

    def add(self, total: Float[Tensor, " any"], part: Float[Tensor, " any"]) -> None:
        """Add every process's part to a total, in order of the processes.

        Args:
            total: Added to in place, the same in all processes.
            part: This process's part.

        Raises:
            ValueError: If another process has ended.
        """
        if self.count == 1:
            total.add_(part)
            return
        for chunk in chunks(total):
            parts = [torch.empty_like(part[chunk]) for _ in range(self.count)]
            try:
                distributed.all_gather(parts, part[chunk])
            except RuntimeError as error:
                raise ValueError(
                    f"process {self.rank} of {self.count}: another process of this search has "
                    f"ended, so this one ends too ({str(error).splitlines()[0][:80]})"
                ) from error
            for each in parts:
                total[chunk].add_(each)


@contextmanager
def process_group(device: str) -> Iterator[ProcessGroup]:
    """Join the processes that `accelerate launch` or `torchrun` has started, within the block.

    Args:
        device: Where this process computes.

    Yields:
        The processes; just this one if there was no launcher.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ProcessGroup()
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield ProcessGroup(distributed.get_rank(), count)
    finally:
        distributed.destroy_process_group()
