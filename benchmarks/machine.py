"""What figures were measured on."""

from __future__ import annotations

from pathlib import Path

import torch

from knowsub.discovery.options import Matmul
from knowsub.discovery.precision import MOST_ERROR, product_error


def exact_matmul() -> Matmul:
    """Return oneDNN where it computes float32 products as such, torch's default elsewhere."""
    exact = product_error(Matmul.ONEDNN) <= MOST_ERROR
    return Matmul.ONEDNN if exact else Matmul.DEFAULT


def described(threads: int) -> str:
    """Return the processor, the number of threads and the version of torch."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    words = f"{threads} thread{'s' if threads > 1 else ''}"
    return f"{names[0] if names else 'unknown processor'}, {words}, torch {torch.__version__}"
