"""Everything that may go wrong overnight, on tiny settings: what survives, and what does not.

    python -m tests.torture [--only kill,damage] [--amount 0.2] [--seed 1] [--write FILE]

Prints one table and ends with status 1 if something was lost.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.torture.bad_input import bad_input
from tests.torture.damage import damage
from tests.torture.disk import disk, unmount
from tests.torture.distributed import distributed
from tests.torture.ground import Ground, Outcome, say
from tests.torture.kill import kill
from tests.torture.memory import memory
from tests.torture.page import page, table
from tests.torture.parameters import parameters
from tests.torture.safety import safety
from tests.torture.same import same
from tests.torture.together import together

CASES: dict[str, Callable[[Ground], list[Outcome]]] = {
    "kill": kill,
    "damage": damage,
    "parameters": parameters,
    "bad_input": bad_input,
    "disk": disk,
    "together": together,
    "safety": safety,
    "distributed": distributed,
    "same": same,
    "memory": memory,
}
"""All cases, in order of importance."""
NEEDS_WHOLE = set(CASES) - {"damage", "parameters", "safety"}
"""Cases that compare with an undisturbed run."""


def torture(ground: Ground, names: Sequence[str], jobs: int) -> list[Outcome]:
    """Try the named cases, some at a time; one that breaks down is a loss of its own."""

    def tried(name: str) -> list[Outcome]:
        begin = time.monotonic()
        try:
            return CASES[name](ground)
        except Exception as error:  # noqa: BLE001 - the others are still to be tried
            return [Outcome(f"{name}: broke down", 1, [f"{type(error).__name__}: {error}"])]
        finally:
            say(f"{name}: {time.monotonic() - begin:.0f} s")

    if NEEDS_WHOLE & set(names):
        ground.whole()
    with ThreadPoolExecutor(jobs) as pool:
        return [outcome for found in pool.map(tried, names) for outcome in found]


def stopped(folder: Path) -> None:
    """End at once, leaving no disk behind."""
    unmount(folder)
    os._exit(143)


def main() -> int:
    """Try the cases, print the table, write the page; return the status."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--only", default=",".join(CASES), help="cases, separated by commas")
    parser.add_argument("--amount", type=float, default=1.0, help="share of the trials")
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time")
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is drawn")
    parser.add_argument("--write", type=Path, help="file for the table, as Markdown")
    parser.add_argument("--scratch", type=Path, help="folder to work in, which is kept")
    given = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        ground = Ground((given.scratch or Path(scratch)).resolve(), given.seed, given.amount)
        signal.signal(signal.SIGTERM, lambda *_: stopped(ground.folder))
        found = torture(ground, given.only.split(","), given.jobs)
    sys.stdout.write(table(found))
    if given.write:
        given.write.write_text(page(found, time.monotonic() - begin), encoding="utf-8")
    return 1 if any(outcome.lost for outcome in found) else 0


if __name__ == "__main__":
    sys.exit(main())
