"""Measure the search against the straightforward loop and against plain finetuning.

    python -m benchmarks [--rounds 5] [--threads 1] [--small]

The contenders take turns, so that a slow moment of the machine meets them all; medians are
compared. On one thread a step's time is that of its processor, which others cannot take away.
Memory is the peak of a process of its own per contender.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks import workload
from benchmarks.contenders import CONTENDERS, contender
from benchmarks.machine import described

RESULTS = Path(__file__).with_name("results.json")
BARS = {
    "step_vs_straightforward": 0.33,
    "step_vs_finetune": 1.10,
    "bf16_step_vs_straightforward": 0.22,
    "memory_vs_straightforward": 0.5,
}
"""What each ratio may be at most."""
WEIGHED = ("straightforward", "search", "search_bf16")
"""Contenders whose memory is measured."""
TINY = workload.Shape(width=64, blocks=4, heads=4, vocabulary=500, block=32)


def measure_memory(name: str, flags: list[str]) -> float:
    """Return the peak memory of two steps of a contender in a process of its own [MiB]."""
    command = [sys.executable, "-m", "benchmarks", "--memory", name, *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def measure_time(rounds: int, shape: workload.Shape, threads: int) -> dict[str, list[float]]:
    """Return the seconds of every step of every contender, taken in turns [s]."""
    clock: Callable[[], float] = time.process_time if threads == 1 else time.perf_counter
    steps = {name: contender(name, shape) for name in CONTENDERS}
    taken: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            begin = clock()
            step()
            if turn:
                taken[name].append(clock() - begin)
    return taken


def ratios(median: dict[str, float], memory: dict[str, float]) -> dict[str, float]:
    """Return what is asked for of the medians [s] and the peaks of memory [MiB]."""
    return {
        "step_vs_straightforward": median["search"] / median["straightforward"],
        "step_vs_finetune": median["search"] / median["finetune_lean"],
        "step_vs_finetune_default": median["search_default"] / median["finetune_lean_default"],
        "step_vs_finetune_full_logits": median["search"] / median["finetune"],
        "step_vs_finetune_full_logits_default": (
            median["search_default"] / median["finetune_default"]
        ),
        "default_step_vs_straightforward": median["search_default"] / median["straightforward"],
        "bf16_step_vs_straightforward": median["search_bf16"] / median["straightforward"],
        "memory_vs_straightforward": memory["search"] / memory["straightforward"],
    }


def main() -> None:
    """Measure, print the table, write `benchmarks/results.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="a small shape; writes no results")
    parser.add_argument("--memory", choices=CONTENDERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    shape = TINY if given.small else workload.Shape()
    if given.memory:
        step = contender(given.memory, shape)
        step()
        step()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    flags = ["--threads", str(given.threads), *(["--small"] if given.small else [])]
    memory = {name: measure_memory(name, flags) for name in WEIGHED}
    taken = measure_time(given.rounds, shape, given.threads)
    results = summary(taken, memory, given.threads)
    if not given.small:
        kept = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {}
        RESULTS.write_text(json.dumps(kept | results, indent=1) + "\n", encoding="utf-8")


def summary(
    taken: dict[str, list[float]], memory: dict[str, float], threads: int
) -> dict[str, object]:
    """Print the tables; return the ratios, the rows behind them, and where they come from."""
    median = {name: statistics.median(values) for name, values in taken.items()}
    print(f"| step | median [s] | range [s] | peak memory [MiB] |\n|{'---|' * 4}")
    for name in CONTENDERS:
        low, high = min(taken[name]), max(taken[name])
        peak = f"{memory[name]:.0f}" if name in memory else ""
        print(f"| {name} | {median[name]:.3f} | {low:.3f}-{high:.3f} | {peak} |")
    found = ratios(median, memory)
    print(f"\n| ratio | measured | at most |\n|{'---|' * 3}")
    for name, value in found.items():
        print(f"| {name} | {value:.3f} | {BARS.get(name, '')} |")
    rows = {
        name: {"median_s": median[name], "steps_s": taken[name], "peak_mib": memory.get(name)}
        for name in CONTENDERS
    }
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    return found | {
        "rows": rows,
        "machine": described(threads),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
    }


if __name__ == "__main__":
    main()
