"""The machine that measurements were taken on, and its clock."""

from __future__ import annotations

import resource
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch

from knowsub.discovery.kernels import MAX_MATMUL_ERROR, matmul_error
from knowsub.discovery.options import Matmul


def exact_matmul() -> Matmul:
    """Return oneDNN where it computes float32 products as such, torch's default elsewhere."""
    exact = matmul_error(Matmul.ONEDNN) <= MAX_MATMUL_ERROR
    return Matmul.ONEDNN if exact else Matmul.DEFAULT


def has_bfloat16(size: int = 256) -> bool:
    """Return whether this processor has instructions for products in bfloat16.

    Without them torch takes ten times as long as in float32, which is how they are found missing.
    """

    def seconds(dtype: torch.dtype) -> float:
        one, taken = torch.ones(size, size, dtype=dtype), []
        for _ in range(5):
            begin = time.process_time()
            torch.mm(one, one)
            taken.append(time.process_time() - begin)
        return min(taken)

    return seconds(torch.bfloat16) < 3 * seconds(torch.float32)


def clock(device: str) -> Callable[[], float]:
    """Return what tells the time [s].

    On one thread of a CPU it is the processor's, which others cannot take away; on a GPU that of
    the wall once all work is done.
    """

    def finished() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    if device == "cuda":
        return finished
    return time.perf_counter if torch.get_num_threads() > 1 else time.process_time


def peak_memory(device: str) -> int:
    """Return the most memory that this process has had [bytes]: tensors alone on a GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def described(device: str, threads: int) -> str:
    """Return the processor and its instructions or the GPU, threads, and the version of torch."""
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else "unknown processor"
    words = (
        f"{torch.backends.cpu.get_cpu_capability()}, {threads} thread{'s' if threads > 1 else ''}"
    )
    return f"{name}, {words}, torch {torch.__version__}"


def commit() -> str:
    """Return the commit that is checked out; an empty text outside a repository."""
    if shutil.which("git") is None:
        return ""
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""
