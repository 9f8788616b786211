"""What figures were measured on."""

from __future__ import annotations

from pathlib import Path

import torch


def described(threads: int) -> str:
    """Return the processor, the number of threads and the version of torch."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    words = f"{threads} thread{'s' if threads > 1 else ''}"
    return f"{names[0] if names else 'unknown processor'}, {words}, torch {torch.__version__}"
