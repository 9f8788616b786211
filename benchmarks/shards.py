"""What each of several processes holds of a search that they divide (`train.shards`).

    torchrun --nproc-per-node 4 -m benchmarks.shards [--memory redrawn | 8bit] [--width 1024]

A random GPT-2 of eight blocks, the upper half masked, takes two steps on CPUs; without `torchrun`,
in one process. The largest figures of all processes are printed as one line of JSON, in bytes:
what is kept of gates and masked weights, all tensors that are alive between two steps, the memory
of the process then and at its peak, which loading the whole model is part of.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import time
from pathlib import Path

import torch

from benchmarks import workload
from benchmarks.machine import peak_memory
from benchmarks.workload import Shape
from knowsub.discovery.distributed import init_processes
from knowsub.discovery.options import GateMemory
from knowsub.discovery.trainer import MaskTrainer
from knowsub.masks.weights import local_part

PARTS = 4


def kept(trainer: MaskTrainer) -> int:
    """Return the bytes of logits, moments, original and remaining weights of this process."""
    own = [trainer.gates.logits, *trainer.adam.moments.state().values()]
    weights = [
        local_part(each.detach()) for each in trainer.gradient.masked_weights.weights.values()
    ]
    own += [*weights, *weights]  # the original ones are as large
    return sum(each.numel() * each.element_size() for each in own)


def alive() -> int:
    """Return the bytes of all tensors."""
    gc.collect()
    tensors = [each for each in gc.get_objects() if isinstance(each, torch.Tensor)]
    storages = [local_part(each.detach()).untyped_storage() for each in tensors]
    return sum({each.data_ptr(): each.nbytes() for each in storages}.values())


def main() -> None:
    """Take the steps and print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", choices=["redrawn", "8bit"], default="8bit")
    parser.add_argument("--width", type=int, default=1024)
    given = parser.parse_args()
    shape = Shape(width=given.width, blocks=8, heads=16, vocabulary=2000)
    memory = GateMemory(given.memory)
    with init_processes("cpu") as processes:
        model = workload.build(shape)
        trainer = workload.search(
            model, shape, processes=processes, gate_memory=memory, shards=PARTS
        )
        trainer.train_step()
        begin = time.perf_counter()
        trainer.train_step()
        step = int(1000 * (time.perf_counter() - begin))
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        resident = pages * resource.getpagesize()
        own = [kept(trainer), alive(), resident, peak_memory("cpu"), step]
        found = processes.gather(torch.tensor(own)).amax(dim=0).tolist()
        names = ("kept", "alive", "resident", "peak", "step_ms")
        if processes.is_main:
            about = {"processes": processes.count, "memory": given.memory}
            print(
                json.dumps(
                    {**about, "gates": trainer.gates.total, **dict(zip(names, found, strict=True))}
                )
            )


if __name__ == "__main__":
    main()
