"""Measure the search against the straightforward loop and against plain finetuning.

    python -m benchmarks [--device cpu] [--rounds 5] [--threads 1] [--shape small]

The contenders take turns, each in a process of its own; medians are compared. Memory is the peak
of the process, about 18 GB of all together at the shape of GPT-2 small; on a GPU that of the
tensors there.
"""

from __future__ import annotations

import argparse
import json
import statistics
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks import workload
from benchmarks.contenders import CONTENDERS, contenders
from benchmarks.machine import commit, described
from benchmarks.shapes import SHAPES
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
ALL = {"tiny": TINY} | SHAPES
"""Workload W is `small`, GPT-2's shape of that name."""


STEPS = {
    "step_vs_straightforward": ("search", "straightforward"),
    "step_vs_finetune": ("search", "finetune_lean"),
    "step_vs_finetune_default": ("search_default", "finetune_lean_default"),
    "step_vs_finetune_full_logits": ("search", "finetune"),
    "step_vs_finetune_full_logits_default": ("search_default", "finetune_default"),
    "default_step_vs_straightforward": ("search_default", "straightforward"),
    "bf16_step_vs_straightforward": ("search_bf16", "straightforward"),
}
"""Ratio of medians -> whose, over whose."""
PEAKS = {
    "memory_vs_straightforward": ("search", "straightforward"),
    "memory_vs_finetune": ("search", "finetune_lean"),
}
"""The same of peaks of memory."""


def ratios(taken: dict[str, Taken]) -> dict[str, float]:
    """Return every ratio whose contenders took part."""
    median = {name: statistics.median(one.seconds) for name, one in taken.items()}
    peak = {name: one.peak for name, one in taken.items()}
    return {
        name: figures[mine] / figures[other]
        for pairs, figures in ((STEPS, median), (PEAKS, peak))
        for name, (mine, other) in pairs.items()
        if mine in figures and other in figures
    }


def main() -> None:
    """Measure, print the table, write `benchmarks/results.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shape", choices=ALL, default="small", help="tiny writes no results")
    parser.add_argument("--serve", choices=CONTENDERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.serve:
        serve(given.serve, ALL[given.shape], given.device)
        return
    flags = ["--device", given.device, "--threads", str(given.threads), "--shape", given.shape]
    taken = take_turns(contenders(given.device), given.rounds, flags)
    results, machine = summary(taken), described(given.device, given.threads)
    if given.shape != "tiny":
        kept = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {}
        kept.setdefault(given.device, {}).setdefault(given.shape, {})[machine] = results
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def summary(taken: dict[str, Taken]) -> dict[str, object]:
    """Print the tables; return the ratios, the rows behind them, and where they come from."""
    print(f"| step | median [s] | range [s] | peak memory [MiB] |\n|{'---|' * 4}")
    for name, one in taken.items():
        middle, low, high = statistics.median(one.seconds), min(one.seconds), max(one.seconds)
        print(f"| {name} | {middle:.4f} | {low:.4f}-{high:.4f} | {one.peak:.0f} |")
    found = ratios(taken)
    print(f"\n| ratio | measured | at most |\n|{'---|' * 3}")
    for name, value in found.items():
        print(f"| {name} | {value:.3f} | {BARS.get(name, '')} |")
    rows = {
        name: {
            "median_s": statistics.median(one.seconds),
            "steps_s": one.seconds,
            "peak_mib": one.peak,
        }
        for name, one in taken.items()
    }
    return found | {
        "rows": rows,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
    }


if __name__ == "__main__":
    main()
