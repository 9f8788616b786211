"""What a step costs as models grow: writes `docs/cost.md`.

    python -m benchmarks.cost [--measure small medium]

Shapes that are named are measured, each in a process of its own on one thread; the others are
modelled, their time by the arithmetic of a step at the rate of the largest one that was measured.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import workload
from benchmarks.machine import described, exact_matmul

SHAPES = {
    "small": workload.Shape(width=768, blocks=12, heads=12),
    "medium": workload.Shape(width=1024, blocks=24, heads=16),
    "large": workload.Shape(width=1280, blocks=36, heads=20),
    "xl": workload.Shape(width=1600, blocks=48, heads=25),
}
PAGE = Path(__file__).parents[1] / "docs" / "cost.md"
GPUS = (16, 24, 80, 141)
"""Memory of the GPUs that are asked about [GB]."""
RUNTIME = 1.0
"""Memory of libraries and of the device's context, beside the tensors [GB]."""
VECTORS = 6
"""Float32 numbers per maskable weight: logit, two moments, value or gradient, slope, weight."""
ACTIVATIONS = 18
"""Float32 numbers kept per token, block and unit of width for the way back."""


@dataclass(frozen=True)
class Cost:
    """What a step of one shape costs."""

    seconds: float
    """Time of a step [s]."""
    gigabytes: float
    """Peak memory [GB]."""
    measured: bool
    """Whether it was measured; otherwise modelled."""


def parameters(shape: workload.Shape) -> tuple[int, int]:
    """Return the numbers of parameters and of maskable weights."""
    block = 12 * shape.width**2
    embeddings = (shape.vocabulary + 1024) * shape.width
    return embeddings + shape.blocks * block, shape.blocks // 2 * block


def arithmetic(shape: workload.Shape) -> float:
    """Return the operations of a step's matrix products [GFLOP]."""
    _, maskable = parameters(shape)
    told, read = shape.target + shape.control, shape.text * (shape.block - 1)
    tokens = told * (shape.statement - 1) + read
    head = shape.vocabulary * shape.width * 2 * (told + read)
    return 2 * (3 * tokens * maskable + head) / 1e9


def memory(shape: workload.Shape) -> float:
    """Return the modelled memory of a step [GB]."""
    total, maskable = parameters(shape)
    left = total - 12 * shape.width**2 * (shape.blocks // 2)
    tokens = max(shape.text * shape.block, (shape.target + shape.control) * shape.statement)
    kept = tokens * shape.blocks // 2 * ACTIVATIONS * shape.width
    head = 3 * 128 * shape.vocabulary
    return RUNTIME + 4 * (left + VECTORS * maskable + kept + head) / 1e9


def measure(shape: workload.Shape, rounds: int = 3) -> Cost:
    """Return the measured cost of this process's own steps."""
    torch.set_num_threads(1)
    search = workload.search(workload.build(shape), shape, matmul=exact_matmul())
    search.advance()
    taken = []
    for _ in range(rounds):
        begin = time.process_time()
        search.advance()
        taken.append(time.process_time() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return Cost(statistics.median(taken), peak, True)


def costs(measured: list[str]) -> dict[str, Cost]:
    """Return the cost of every shape, the named ones measured in processes of their own."""
    found = {}
    for name in measured:
        command = [sys.executable, "-m", "benchmarks.cost", "--one", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[name] = Cost(**json.loads(done.stdout.splitlines()[-1]))
    largest = max(measured, key=lambda name: arithmetic(SHAPES[name]))
    rate = found[largest].seconds / arithmetic(SHAPES[largest])
    return {
        name: found.get(name) or Cost(rate * arithmetic(shape), memory(shape), False)
        for name, shape in SHAPES.items()
    }


def page(found: dict[str, Cost]) -> str:
    """Return the page."""
    fits = " | ".join(f"{size} GB" for size in GPUS)
    lines = [
        "# What a step costs",
        "",
        "Written by `python -m benchmarks.cost`. Shapes of GPT-2 with random weights, weight",
        "masks on the upper half of the blocks, float32, 16 target and 32 control statements of 9",
        "tokens, 2 x 128 tokens of text. Time: one step of the search on one thread of the",
        f"processor below, `train.matmul: {exact_matmul().value}`, median of three, time of the",
        "processor and not of the clock. Memory: peak of the process where measured.",
        "*Modelled*: time by the arithmetic of the matrix products at the rate of the largest",
        "shape measured; memory as 4 bytes times the model without its lower blocks,",
        f"{VECTORS} numbers per maskable weight, activations and a piece of the logits, and",
        f"{RUNTIME:.0f} GB for libraries. A GPU fits a shape if the modelled memory is at most",
        "nine tenths of its own; no GPU was measured. `train.recompute` and `train.accumulate`",
        "take less.",
        "",
        f"{described(1)}, {time.strftime('%Y-%m-%d', time.gmtime())}.",
        "",
        f"| shape | parameters | maskable | step [s] | memory [GB] | | modelled [GB] | {fits} |",
        f"|{' --- |' * (7 + len(GPUS))}",
    ]
    for name, cost in found.items():
        total, maskable = parameters(SHAPES[name])
        needed = memory(SHAPES[name])
        places = " | ".join("yes" if needed <= 0.9 * size else "no" for size in GPUS)
        kind = "measured" if cost.measured else "modelled"
        lines.append(
            f"| {name} | {total / 1e6:.0f}M | {maskable / 1e6:.1f}M | {cost.seconds:.1f} "
            f"| {cost.gigabytes:.1f} | {kind} | {needed:.1f} | {places} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", nargs="+", choices=list(SHAPES), default=["small", "medium"])
    parser.add_argument("--one", choices=list(SHAPES), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        cost = measure(SHAPES[given.one])
        print(json.dumps(vars(cost)))
        return
    text = page(costs(given.measure))
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
