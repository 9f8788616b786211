"""Contenders in processes of their own, which take turns."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks import workload
from benchmarks.contenders import contender
from benchmarks.machine import clock, peak_memory

WARM_UP = 3
"""Turns of each contender that are not counted."""
TURN = 0.5
"""A turn's steps go on for so long at least: a step after idleness is not a loop's step [s]."""


@dataclass
class Taken:
    """What one contender's steps took."""

    seconds: list[float] = field(default_factory=list)
    """Mean time of a step in each turn that counts [s]."""
    peak: float = 0.0
    """Peak memory of its process [MiB]."""


def serve(name: str, shape: workload.Shape, device: str) -> None:
    """Take a turn for every line of the standard input; print the step's time and the peak.

    Args:
        name: The contender.
        shape: Shape of its model and batches.
        device: Where it computes.
    """
    now, step = clock(device), contender(name, shape, device)
    for _ in sys.stdin:
        begin, steps, spent = now(), 0, 0.0
        while spent < TURN:
            step()
            steps, spent = steps + 1, now() - begin
        print(spent / steps, peak_memory(device) / 2**20, flush=True)


def take_turns(names: Sequence[str], rounds: int, flags: Sequence[str]) -> dict[str, Taken]:
    """Let contenders take a turn each, `rounds` times after `WARM_UP` that are not counted.

    A slow moment of the machine meets them all, and none works in the memory of another.

    Args:
        names: The contenders.
        rounds: Turns of each that are counted, at least one.
        flags: Passed on to their processes.

    Returns:
        Times and peak by name.

    Raises:
        RuntimeError: If a contender has ended.
    """
    taken = {name: Taken() for name in names}
    processes = {name: _started(name, flags) for name in names}
    try:
        for turn in range(WARM_UP + rounds):
            for name, process in processes.items():
                seconds, peak = _asked(name, process)
                taken[name].peak = peak
                if turn >= WARM_UP:
                    taken[name].seconds.append(seconds)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    return taken


def _started(name: str, flags: Sequence[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks", "--serve", name, *flags]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _asked(name: str, process: subprocess.Popen[str]) -> tuple[float, float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    told = process.stdout.readline().split()
    if len(told) != 2:
        raise RuntimeError(f"{name} has ended: {process.wait()}")
    return float(told[0]), float(told[1])
