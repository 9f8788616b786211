"""Measure the search against the straightforward loop and against plain finetuning.

    python -m benchmarks [--rounds 5] [--threads 1] [--small]

The contenders take turns, so that a slow moment of the machine meets them all; medians are
compared. Memory is the peak of a process of its own per contender.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).with_name("results.json")
CONTENDERS = ("straightforward", "search", "finetune")


def contender(name: str, small: bool) -> Callable[[], object]:
    """Return the step of one contender on workload W, or on a small one for trying."""
    from benchmarks import workload
    from knowsub.anatomy import sites

    tiny = {"width": 64, "blocks": 4, "heads": 4, "vocabulary": 500, "block": 32}
    shape = workload.Shape(**tiny) if small else workload.Shape()
    model = workload.build(shape)
    if name == "straightforward":
        from benchmarks.straightforward import Straightforward

        weights = {"suppression": 1.5, "maintenance": 1.0, "text": 1.0, "sparsity": 2.0}
        plain = Straightforward(model, sites(model), 0.2, weights)
        batches = workload.batches(shape)
        return lambda: plain.step(*batches)
    search = workload.search(model, shape)
    if name == "search":
        return search.advance
    from benchmarks.finetune import Finetune

    return Finetune(search).step


def measure_memory(name: str, threads: int, small: bool) -> float:
    """Return the peak memory of two steps of a contender in a process of its own [MiB]."""
    flags = ["--memory", name, "--threads", str(threads), *(["--small"] if small else [])]
    command = [sys.executable, "-m", "benchmarks", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def measure_time(rounds: int, small: bool) -> dict[str, list[float]]:
    """Return the seconds of every step of every contender, taken in turns [s]."""
    steps = {name: contender(name, small) for name in CONTENDERS}
    taken: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            if turn:
                taken[name].append(time.perf_counter() - begin)
    return taken


def main() -> None:
    """Measure, print the table, write `benchmarks/results.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="a small shape; writes no results")
    parser.add_argument("--memory", choices=CONTENDERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    import torch

    torch.set_num_threads(given.threads)
    if given.memory:
        step = contender(given.memory, given.small)
        step()
        step()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    memory = {name: measure_memory(name, given.threads, given.small) for name in CONTENDERS}
    taken = measure_time(given.rounds, given.small)
    median = {name: statistics.median(values) for name, values in taken.items()}
    print(f"| step | median [s] | range [s] | peak memory [MiB] |\n|{'---|' * 4}")
    for name in CONTENDERS:
        low, high = min(taken[name]), max(taken[name])
        print(f"| {name} | {median[name]:.3f} | {low:.3f}-{high:.3f} | {memory[name]:.0f} |")
    results = {
        "step_vs_straightforward": median["search"] / median["straightforward"],
        "step_vs_finetune": median["search"] / median["finetune"],
        "memory_vs_straightforward": memory["search"] / memory["straightforward"],
        "machine": f"{platform.processor() or platform.machine()}, {given.threads} threads",
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
    }
    print(json.dumps(results, indent=1))
    if not given.small:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _commit() -> str:
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    main()
