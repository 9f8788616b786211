"""The tour: what users of DVC and MLflow do, on tiny settings, from a clean clone, checked.

    python -m tests.tour [--pictures FOLDER] [--keep FOLDER]

Prints one line per step and ends with status 1 if one of them found something wrong.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.pipeline.conftest import Repository, make_clone
from tests.tour import steps
from tests.tour.store import check_store


@dataclass(frozen=True)
class Step:
    """One command of the tour."""

    command: str
    """What a user types."""
    run: Callable[[Repository], str]
    """Runs and checks it; returns what was found."""
    new: int = 0
    """Experiments that it adds to the store."""
    cold: bool = False
    """Whether the store is deleted first."""


def change(run: Callable[..., str], *changes: str) -> Callable[[Repository], str]:
    """Return a step with parameters set."""
    return lambda clone: run(clone, *changes)


STEPS = (
    Step("dvc repro", steps.repro, new=1),
    Step("dvc repro", steps.again),
    Step(
        "dvc exp run -S train.lr=0.3",
        change(steps.workspace_and_back, "train.lr=0.3"),
        new=1,
    ),
    Step(
        "dvc exp run -S 'seeds=[0,1,2]'",
        change(steps.workspace_and_back, "seeds=[0,1,2]"),
        new=1,
    ),
    Step(
        "dvc exp run -S 'targets=[location.n.01]' -S 'seeds=[0]'",
        change(steps.workspace_and_back, "targets=[location.n.01]", "seeds=[0]"),
        new=1,
    ),
    Step(
        "dvc exp run -S prepare.control_facts=50",
        change(steps.workspace_and_back, "prepare.control_facts=50"),
        new=1,
    ),
    Step(
        "dvc exp run --temp -S finetune.steps=2",
        change(steps.temporary, "finetune.steps=2"),
        new=1,
    ),
    Step(
        "dvc exp run --queue -S analyze.alpha=0.01,0.1 -S report.max_control_facts=5,6; "
        "dvc queue start -j 2",
        change(steps.queue, "analyze.alpha=0.01,0.1", "report.max_control_facts=5,6"),
        new=4,
    ),
    Step("dvc exp show --only-changed", steps.show),
    Step("dvc exp apply", steps.apply),
    Step("dvc metrics diff", steps.metrics_diff),
    Step("dvc plots diff", steps.plots_diff),
    Step("track.model, track.register", steps.registered_model),
    Step(
        "the same queue on a store that is not there",
        change(steps.queue, "report.dpi=60,70"),
        new=2,
        cold=True,
    ),
)
"""The tour, in order."""


def tour(clone: Repository) -> bool:
    """Go through all steps and print the table; return whether all is well."""
    sys.stdout.write(f"{'step':<76} {'seconds':>7}  found\n")
    expected, well = 0, True
    for step in STEPS:
        if step.cold:
            shutil.rmtree(clone.folder / "mlflow")
            expected = 0
        expected += step.new
        begin = time.perf_counter()
        try:
            found = f"ok: {step.run(clone)}; {check_store(clone.folder, expected)}"
        except AssertionError as error:
            found, well = f"WRONG: {error}", False
        seconds = time.perf_counter() - begin
        sys.stdout.write(f"{step.command:<76} {seconds:7.1f}  {found}\n")
        sys.stdout.flush()
    return well


def main() -> int:
    """Make a clone, go on the tour, take the pictures if asked to; return the status."""
    parser = argparse.ArgumentParser(prog="python -m tests.tour", description=__doc__)
    parser.add_argument("--pictures", type=Path, help="folder for screenshots of MLflow's UI")
    parser.add_argument("--keep", type=Path, help="folder for the clone, which is kept")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        clone = make_clone((given.keep or Path(scratch)).resolve() / "clone")
        well = tour(clone)
        if given.pictures:
            from tests.tour.pictures import take

            take(clone.folder, given.pictures)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
