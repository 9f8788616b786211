"""Kernel launches of a step: what is left of it where the arithmetic is free.

    python -m benchmarks.launches [--rounds 15]

A GPU does the arithmetic of workload W in a few milliseconds; the rest of a step is launch time.
Here every contender has the blocks of W and its statements, a width of 16 and text blocks of 16
tokens, on one thread of a CPU. *as on a GPU*: statements and text in one pass. Launches are calls
that make or change a tensor, not views. Without bfloat16 instructions no time is given for it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import workload
from benchmarks.contenders import contender
from benchmarks.machine import has_bfloat16
from knowsub.discovery.options import Precision

SHAPE = workload.Shape(width=16, heads=1, vocabulary=100, block=16)
STEPS = 10
"""Steps of a turn."""
NAMES = ("straightforward", "finetune", "finetune_lean", "search")


class Launches(TorchDispatchMode):
    """Counts the calls that return something with memory of its own, or write to their input."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), given: Any = None) -> Any:
        views = call._schema.returns and call._schema.returns[0].alias_info is not None
        self.count += not views or call._schema.is_mutable
        return call(*args, **(given or {}))


def as_on_a_gpu(**changes: object) -> Callable[[], object]:
    """Return the step of a search that launches what it would on a GPU."""
    trainer = workload.search(workload.build(SHAPE), SHAPE, **changes)
    trainer.gradient.single_pass = trainer.gradient.in_place = True
    return trainer.train_step


def main() -> None:
    """Print a row per contender."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(1)
    steps = {name: contender(name, SHAPE, "cpu") for name in NAMES}
    steps["search, as on a GPU"] = as_on_a_gpu()
    steps["the same in bfloat16"] = as_on_a_gpu(precision=Precision.BFLOAT16)
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(given.rounds):
        for name, step in steps.items():
            begin = time.process_time()
            for _ in range(STEPS):
                step()
            taken[name].append((time.process_time() - begin) / STEPS)
    print(f"| step | launches | median [ms] | of the straightforward loop |\n|{'---|' * 4}")
    whole = statistics.median(taken["straightforward"])
    for name, step in steps.items():
        with Launches() as launches:
            step()
        middle = statistics.median(taken[name])
        known = "bfloat16" not in name or has_bfloat16()
        cells = f"{1e3 * middle:.1f} | {middle / whole:.3f}" if known else " | "
        print(f"| {name} | {launches.count} | {cells} |")


if __name__ == "__main__":
    main()
