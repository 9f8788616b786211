"""One search in several processes: each computes some microbatches, all take the same step.

Microbatches are summed in their order, whichever process computed them, so that the result is the
same to the last bit for any number of processes.

With `train.shards`, FSDP divides the weights of the upper blocks over the processes, and each keeps
the gates of its rows. Each computes its share of a step's one batch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, distributed
from transformers import PreTrainedModel

from knowsub.architectures import architecture
from knowsub.masks.gates import chunks
from knowsub.masks.shards import Shards

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

    def require_rows(self, n_target: int) -> None:
        """Raise a ValueError if a step has no target statement for some process."""
        if n_target < self.count:
            raise ValueError(
                f"train.target_batch: value {n_target} cannot be divided by {self.count} "
                f"processes; use at least {self.count}"
            )

    def shards(self, count: int) -> Shards:
        """Return the parts that gates are divided into, and those of this process.

        Raises ValueError if they are no multiple of the processes.
        """
        if count == 1:
            return Shards()
        if count % self.count:
            raise ValueError(
                f"train.shards: value {count} cannot be shared by {self.count} processes; "
                f"use a multiple of {self.count}"
            )
        each = count // self.count
        return Shards(count, range(self.rank * each, (self.rank + 1) * each), self.gather)

    def gather(self, own: Tensor) -> Tensor:
        """Return a tensor of every process, stacked in their order; all must call it."""
        if self.count == 1:
            return own[None]
        everyone = [torch.empty_like(own) for _ in range(self.count)]
        distributed.all_gather(everyone, own.contiguous())
        return torch.stack(everyone)

    def add(self, total: Float[Tensor, " any"], part: Float[Tensor, " any"]) -> None:
        """Add every process's part to a total in place, in order of the processes.

        Args:
            total: The same in all processes.
            part: This process's part.
        """
        if self.count == 1:
            total.add_(part)
            return
        for chunk in chunks(total):  # an all-reduce would not fix the order of the sum
            for other in self.gather(part[chunk]):
                total[chunk].add_(other)


@contextmanager
def init_processes(device: str) -> Iterator[ProcessGroup]:
    """Join the processes that `accelerate launch` or `torchrun` has started, within the block.

    Args:
        device: Where this process computes.

    Yields:
        The processes; just this one without a launcher.

    Raises:
        ValueError: If another process has ended within the block.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ProcessGroup()
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # what lies on the CPU goes through gloo
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo")
    rank = distributed.get_rank()
    try:
        yield ProcessGroup(rank, count)
    except RuntimeError as error:
        if not LOST.search(str(error)):
            raise
        raise ValueError(
            f"process {rank} of {count}: another process of this search has ended, so this one "
            f"ends too ({str(error).splitlines()[0][:80]})"
        ) from error
    finally:
        distributed.destroy_process_group()


LOST = re.compile("gloo|NCCL|onnection (closed|reset)|Broken pipe")
"""What is in the message of a collective operation that another process did not take part in."""


def divide_blocks(upper: PreTrainedModel, processes: ProcessGroup, device: torch.device) -> None:
    """Divide the parameters of a model's blocks over the processes, by rows.

    A block's parameters are brought together when it computes, and freed afterwards; gradients are
    summed over the processes and each gets that of its rows. Models that share the blocks, such as
    shallow copies with another attention, are divided with them. All processes must run them.

    Args:
        upper: The model, the same in all processes; its blocks are changed in place.
        processes: The processes.
        device: Where this one computes.

    Raises:
        ValueError: If a block has weights in 4 bits, which are not in rows.
    """
    from torch.distributed.device_mesh import init_device_mesh  # slow to import
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (processes.count,))
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    blocks = upper.get_submodule(architecture(upper).blocks)
    if not all(parameter.is_floating_point() for parameter in blocks.parameters()):
        raise ValueError(
            "pretrain.nf4_blocks: blocks above the first masked one cannot be divided over "
            "processes (train.shards); use blocks below it"
        )
    for block in blocks.children():
        divided = fully_shard(block, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
        divided.set_gradient_divide_factor(1.0)  # a sum, not the mean
        divided.set_force_sum_reduction_for_comms(True)
