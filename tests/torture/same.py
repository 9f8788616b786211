"""The same search again: the same bytes."""

from __future__ import annotations

import shutil
import sys

from tests.torture.bad_input import TARGET
from tests.torture.ground import Ground, Outcome


def same(ground: Ground) -> list[Outcome]:
    """Search for the same mask again, in a process of its own."""
    outcome = Outcome("The same search again, one thread: mask, curve and summary, byte for byte")
    clone = ground.copy("same")
    folder = clone.folder / f"data/train/{TARGET}-0"
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    for _ in range(2):
        shutil.rmtree(folder)
        done = clone.run(sys.executable, "-m", "stages.train", TARGET, "0", "-q")
        found = {path.name: path.read_bytes() for path in folder.glob("*")}
        differing = sorted(name for name in whole if found.get(name) != whole[name])
        outcome.check(not differing, f"{differing} differ: {done.stderr[-200:]}")
    return [outcome]
