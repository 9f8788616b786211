"""One search in several processes: each computes some microbatches, all take the same step.

Microbatches are summed in their order, whichever process computed them, so that the result is the
same to the last bit for any number of processes.
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
    def is_main(self) -> bool:
        """Whether this is the process that writes and logs."""
        return self.rank == 0

    def main_only(self, context: AbstractContextManager[T]) -> AbstractContextManager[T | None]:
        """Return the context in the main process, and one that gives None in the others."""
        return context if self.is_main else nullcontext()

    def require_shareable(self, n_microbatches: int) -> None:
        """Raise a ValueError if microbatches are no multiple of the processes."""
        if n_microbatches % self.count:
            raise ValueError(
                f"train.grad_accumulation: value {n_microbatches} cannot be shared by {self.count} "
                f"processes; use a multiple of {self.count}"
            )

    def add(self, total: Float[Tensor, " any"], part: Float[Tensor, " any"]) -> None:
        """Add every process's part to a total in place, in order of the processes.

        Args:
            total: The same in all processes.
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
            for other in parts:  # an all-reduce would not fix the order of the sum
                total[chunk].add_(other)


@contextmanager
def init_processes(device: str) -> Iterator[ProcessGroup]:
    """Join the processes that `accelerate launch` or `torchrun` has started, within the block.

    Args:
        device: Where this process computes.

    Yields:
        The processes; just this one without a launcher.
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
