"""Measure the search against the straightforward loop and against plain finetuning.

    python -m benchmarks [--rounds 5] [--threads 1] [--small]

The contenders take turns, each in a process of its own; medians are compared. Memory is the peak
of the process, about 18 GB of all together at the full size.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks import workload
from benchmarks.contenders import CONTENDERS
from benchmarks.machine import described
from benchmarks.turns import Taken, serve, take_turns

RESULTS = Path(__file__).with_name("results.json")
BARS = {
    "step_vs_straightforward": 0.33,
    "step_vs_finetune": 1.10,
    "bf16_step_vs_straightforward": 0.22,
    "memory_vs_straightforward": 0.5,
}
"""What each ratio may be at most."""
TINY = workload.Shape(width=64, blocks=4, heads=4, vocabulary=500, block=32)


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
        "memory_vs_finetune": memory["search"] / memory["finetune_lean"],
    }


def main() -> None:
    """Measure, print the table, write `benchmarks/results.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="a small shape; writes no results")
    parser.add_argument("--serve", choices=CONTENDERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    shape = TINY if given.small else workload.Shape()
    if given.serve:
        serve(given.serve, shape)
        return
    flags = ["--threads", str(given.threads), *(["--small"] if given.small else [])]
    results = summary(take_turns(CONTENDERS, given.rounds, flags), given.threads)
    if not given.small:
        kept = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {}
        RESULTS.write_text(json.dumps(kept | results, indent=1) + "\n", encoding="utf-8")


def summary(taken: dict[str, Taken], threads: int) -> dict[str, object]:
    """Print the tables; return the ratios, the rows behind them, and where they come from."""
    median = {name: statistics.median(one.seconds) for name, one in taken.items()}
    memory = {name: one.peak for name, one in taken.items()}
    print(f"| step | median [s] | range [s] | peak memory [MiB] |\n|{'---|' * 4}")
    for name, one in taken.items():
        low, high = min(one.seconds), max(one.seconds)
        print(f"| {name} | {median[name]:.3f} | {low:.3f}-{high:.3f} | {one.peak:.0f} |")
    found = ratios(median, memory)
    print(f"\n| ratio | measured | at most |\n|{'---|' * 3}")
    for name, value in found.items():
        print(f"| {name} | {value:.3f} | {BARS.get(name, '')} |")
    rows = {
        name: {"median_s": median[name], "steps_s": one.seconds, "peak_mib": one.peak}
        for name, one in taken.items()
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
