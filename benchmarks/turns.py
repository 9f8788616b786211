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
"""Steps of each contender that are not counted."""


@dataclass
class Taken:
    """What one contender's steps took."""

    seconds: list[float] = field(default_factory=list)
    """Time of each step that counts [s]."""
    peak: float = 0.0
    """Peak memory of its process [MiB]."""


def serve(name: str, shape: workload.Shape, device: str) -> None:
    """Do a step for every line of the standard input; print its time [s] and the peak [MiB]."""
    now, step = clock(device), contender(name, shape, device)
    for _ in sys.stdin:
        begin = now()
        step()
        print(now() - begin, peak_memory(device) / 2**20, flush=True)


def take_turns(names: Sequence[str], rounds: int, flags: Sequence[str]) -> dict[str, Taken]:
    """Let contenders do a step each, `rounds` times after `WARM_UP` that are not counted.

    A slow moment of the machine meets them all, and none works in the memory of another.

    Args:
        names: The contenders.
        rounds: Steps of each that are counted, at least one.
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
