"""Memory: a bound that holds at GPT-2-small's size, and frozen states beyond their limit."""

from __future__ import annotations

import shutil
import subprocess
import sys

from tests.pipeline.conftest import ROOT
from tests.torture.bad_input import TARGET
from tests.torture.ground import Ground, Outcome

BOUND_GB = 4.0
"""Peak that a search at GPT-2-small's size stays below [GB]."""
SEARCH = """
import resource
from benchmarks.workload import Shape, build, search
shape = Shape()
made = search(build(shape), shape)
for _ in range(2):
    made.train_step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)
"""


def memory(ground: Ground) -> list[Outcome]:
    """Search at GPT-2-small's size, and with next to no memory for frozen states."""
    bound = Outcome(f"A search at GPT-2-small's size: peak memory below {BOUND_GB:g} GB")
    done = subprocess.run(
        [sys.executable, "-c", SEARCH], cwd=ROOT, capture_output=True, text=True, check=False
    )
    peak = float(done.stdout or "inf")
    bound.check(peak < BOUND_GB, f"{peak:.2f} GB {done.stderr[-200:]}")
    bound.note = f"{peak:.2f} GB; 16 + 32 statements of 9 tokens, 2 x 128 tokens of text"
    mapped = Outcome("Frozen states beyond `machine.memory_gb`: mapped from files, the same mask")
    clone = ground.copy("memory")
    path = clone.folder / f"data/train/{TARGET}-0/mask.safetensors"
    whole = path.read_bytes()
    shutil.rmtree(path.parent)
    clone.set(machine={"memory_gb": 1e-6})
    done = clone.run(sys.executable, "-m", "stages.train", TARGET, "0", "-q")
    mapped.check(path.is_file() and path.read_bytes() == whole, f"another mask {done.stderr}")
    left = list((clone.folder / ".checkpoints").rglob("states-*"))
    mapped.check(not left, f"{len(left)} files of states left")
    return [bound, mapped]
