"""What a step costs as models grow: writes `benchmarks/cost.json` and, from it, `docs/cost.md`.

    python -m benchmarks.cost [--device cpu] [--measure small medium]

Shapes that are named are measured, each in a process of its own, on one thread of a CPU or on a
GPU; what was measured on the other kind of device stays.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks import workload
from benchmarks.cost_page import page
from benchmarks.machine import clock, described, exact_matmul, peak_memory
from benchmarks.shapes import SHAPES
from knowsub.discovery.options import Precision

FOUND = Path(__file__).with_name("cost.json")
PAGE = Path(__file__).parents[1] / "docs" / "cost.md"
WARM_UP, ROUNDS = 2, 5
"""Steps that are not counted, and steps that are."""


def measured(name: str, device: str) -> dict[str, float]:
    """Return what steps of one shape cost in this process: times [s] and the peak [GB]."""
    torch.set_num_threads(1)
    shape, now, costs = SHAPES[name], clock(device), {}
    kinds = list(Precision) if device == "cuda" else [Precision.FLOAT32]
    for precision in kinds:
        chosen = {"precision": precision, "matmul": exact_matmul()}
        search = workload.search(workload.build(shape, device), shape, **chosen)
        taken = []
        for _ in range(WARM_UP + ROUNDS):
            begin = now()
            search.train_step()
            taken.append(now() - begin)
        costs[str(precision)] = statistics.median(taken[WARM_UP:])
        costs.setdefault("gigabytes", peak_memory(device) / 1e9)
        del search
    return costs


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--measure", nargs="*", choices=list(SHAPES), default=["small", "medium"])
    parser.add_argument("--one", choices=list(SHAPES), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(given.one, given.device)))
        return
    kept: dict[str, Any] = json.loads(FOUND.read_text("utf-8")) if FOUND.is_file() else {}
    if given.measure:
        kept[given.device] = {
            "machine": described(given.device, 1),
            "date": datetime.now(UTC).date().isoformat(),
            "matmul": str(exact_matmul()),
            "shapes": {name: _alone(name, given.device) for name in given.measure},
        }
        FOUND.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    text = page(kept)
    PAGE.write_text(text, encoding="utf-8")
    print(text)


def _alone(name: str, device: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.cost", "--one", name, "--device", device]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
