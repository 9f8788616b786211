"""A disk without room and one that cannot be written: one line, and on it goes when there is room.

Each folder that a stage writes to is a small disk of its own (tmpfs), so it takes root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.pipeline.conftest import Repository
from tests.torture.bad_input import TARGET, contents
from tests.torture.ground import Ground, Outcome, differences

ITEM = (TARGET, "0")
STAGES = {
    "train": ITEM,
    "pretrain": (),
    "finetune": ITEM,
    "prepare": (),
    "verbalize": (),
    "baseline": ITEM,
    "test": ITEM,
    "analyze": (),
    "report": (),
}
"""Stage -> its arguments, in order of importance."""
FULL, FIXED = "No space left on device", "Read-only file system"


def disk(ground: Ground) -> list[Outcome]:
    """Give stages a full disk, then a read-only one, then room."""
    full = Outcome("A stage whose folder is on a full disk: one line; done when there is room")
    fixed = Outcome("A stage whose folder cannot be written: one line; done when it can")
    scratch = Outcome("Checkpoints or logs on a full disk: one line; goes on from the last one")
    if not may_mount(ground.folder):
        for outcome in (full, fixed, scratch):
            outcome.note = "skipped: needs root, to mount a small disk"
        return [full, fixed, scratch]
    clone = ground.copy("disk")
    stages = list(STAGES)[: ground.number(len(STAGES))]
    for stage in stages:
        fault = blocked(clone, stage, f"data/{stage}", FULL)
        full.check(not fault, f"{stage}: {fault}")
    for stage in stages[:: max(1, len(stages) - 1)]:
        fault = blocked(clone, stage, f"data/{stage}", FIXED)
        fixed.check(not fault, f"{stage}: {fault}")
    for folder in (".checkpoints", "mlflow"):
        fault = blocked(clone, "train", folder, FULL)
        scratch.check(not fault, f"{folder}: {fault}")
    left = differences(clone.folder, ground.whole().folder)
    full.check(not left, f"not as without a fault: {left}")
    fault = room_again(clone)
    scratch.check(not fault, fault)
    return [full, fixed, scratch]


def may_mount(folder: Path) -> bool:
    """Return whether small disks can be mounted here."""
    probe = folder / "probe"
    probe.mkdir(parents=True, exist_ok=True)
    if os.getuid() or not shutil.which("mount"):
        return False
    done = subprocess.run(["mount", "-t", "tmpfs", "none", str(probe)], check=False)
    if done.returncode == 0:
        subprocess.run(["umount", str(probe)], check=True)
    return done.returncode == 0


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Put a small disk at a folder for the time of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size},mode=755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def unmount(folder: Path) -> None:
    """Take away the small disks below a folder, where the block that made them was cut short."""
    for line in Path("/proc/mounts").read_text().splitlines():
        place = line.split()[1]
        if Path(place).is_relative_to(folder):
            subprocess.run(["umount", "--lazy", place], check=False)


def blocked(clone: Repository, stage: str, name: str, expected: str) -> str:
    """Run a stage while a folder is full or read-only, then with room; return what was wrong."""
    place = clone.folder / name
    before = contents(clone.folder, f"stages.{stage}")
    shutil.rmtree(clone.folder / ".checkpoints", ignore_errors=True)
    with small_disk(place, "4k"):
        if name.startswith("data") and STAGES[stage]:
            (place / "-".join(STAGES[stage])).mkdir()
        (place / ".filler").write_bytes(bytes(4096))
        if expected == FIXED:
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        done = run(clone, stage)
    said = done.stderr.strip().splitlines()
    if done.returncode != 1 or len(said) != 1 or expected not in said[0]:
        return f"status {done.returncode}, {len(said)} lines: {' | '.join(said[-2:])}"
    if contents(clone.folder, f"stages.{stage}") != before:
        return "files that are not its own have changed"
    done = run(clone, stage)
    return "" if done.returncode == 0 else f"with room: {done.stderr[-200:]}"


def run(clone: Repository, stage: str) -> subprocess.CompletedProcess[str]:
    """Run a stage by itself, without progress."""
    return clone.run(sys.executable, "-m", f"stages.{stage}", "-q", *STAGES[stage])


def room_again(clone: Repository) -> str:
    """Let the disk of the checkpoints run full in the middle of a search, then grow."""
    clone.set(train={"steps": 40, "checkpoint_every": 2, "evaluate_every": 40})
    assert run(clone, "train").returncode == 0
    mask = clone.folder / f"data/train/{TARGET}-0/mask.safetensors"
    whole = mask.read_bytes()
    mask.unlink()
    place = clone.folder / ".checkpoints"
    shutil.rmtree(place)
    with small_disk(place, "2m"):
        filler = place / "filler"
        filler.write_bytes(bytes(2**21 - 3 * 2**17))
        done = run(clone, "train")
        kept = len(list(place.rglob("step-*.safetensors")))
        if done.returncode != 1 or FULL not in done.stderr or not kept:
            return f"status {done.returncode}, {kept} checkpoints: {done.stderr[-300:]}"
        filler.unlink()
        done = run(clone, "train")
    same = mask.is_file() and mask.read_bytes() == whole
    return "" if same else f"another mask than without a fault: {done.stderr[-200:]}"
