"""The steps of the tour: each runs the real DVC in a clone, checks what came of it, and says so.

A step that finds something else than it should fails with an AssertionError.
"""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

import yaml

from tests.pipeline.conftest import Repository
from tests.tour.store import experiments

WAIT = 900.0
"""Time that the tasks of a queue may take in all [s]."""
DROPPED = "^(data|knowsub|stages|requirements|mlflow)/"
"""Columns of `dvc exp show` that are hashes of files."""


def repro(clone: Repository) -> str:
    """Run everything, and commit it."""
    ran = clone.dvc("repro")
    expected = set(lock(clone))
    assert set(ran) == expected, f"not run: {expected - set(ran)}"
    commit(clone, "first results")
    return f"{len(ran)} stages ran"


def again(clone: Repository) -> str:
    """Run it again: there is nothing to do."""
    begin = time.perf_counter()
    ran = clone.dvc("repro")
    seconds = time.perf_counter() - begin
    assert ran == [], f"ran {ran}"
    return f"nothing ran, {seconds:.1f} s"


def workspace(clone: Repository, *changes: str) -> str:
    """Run an experiment in the workspace: exactly the stages run whose inputs changed."""
    before = lock(clone)
    known = set(experiments(clone.folder))
    ran = set(clone.dvc("exp", "run", *settings(changes)))
    after = lock(clone)
    expected = {
        name for name in after if name not in before or inputs(after[name]) != inputs(before[name])
    }
    assert ran == expected, f"ran {sorted(ran)}, inputs changed of {sorted(expected)}"
    (name,) = set(experiments(clone.folder)) - known
    return f"{name}: {len(ran)} stages ran, exactly those whose inputs changed"


def workspace_and_back(clone: Repository, *changes: str) -> str:
    """Run an experiment in the workspace, then put the workspace back."""
    found = workspace(clone, *changes)
    restore(clone)
    return found


def temporary(clone: Repository, *changes: str) -> str:
    """Run an experiment in a temporary copy: the workspace stays as it is."""
    before = clone.run("git", "status", "--porcelain").stdout
    known = set(experiments(clone.folder))
    ran = clone.dvc("exp", "run", "--temp", *settings(changes))
    assert clone.run("git", "status", "--porcelain").stdout == before, "the workspace has changed"
    (name,) = set(experiments(clone.folder)) - known
    return f"{name}: {len(ran)} stages ran, the workspace is untouched"


def queue(clone: Repository, *changes: str) -> str:
    """Queue a grid and let two workers run it."""
    queued = clone.said("exp", "run", "--queue", *settings(changes)).count("Queued experiment")
    clone.said("queue", "start", "-j", "2")
    deadline = time.monotonic() + WAIT
    while "Queued" in (said := clone.said("queue", "status")) or "Running" in said:
        assert time.monotonic() < deadline, said
        time.sleep(3)
    assert said.count("Success") >= queued, said
    assert "Failed" not in said, said
    return f"{queued} experiments by 2 workers"


def show(clone: Repository) -> str:
    """Look at the experiments side by side."""
    text = clone.said("exp", "show", "--csv", "--only-changed", "--drop", DROPPED)
    rows = list(csv.DictReader(io.StringIO(text)))
    names = {row["Experiment"] for row in rows}
    known = {
        name for name, run in experiments(clone.folder).items() if "dvc.experiment" in run.data.tags
    }
    assert known <= names, f"in the store and not shown: {known - names}"
    assert len(rows[0]) <= 50, f"{len(rows[0])} columns"
    return f"{len(known)} experiments, {len(rows[0])} columns"


def apply(clone: Repository) -> str:
    """Take over the newest experiment: its metrics are the workspace's, and nothing is lost."""
    name, run = next(
        (name, run)
        for name, run in experiments(clone.folder).items()
        if "dvc.experiment" in run.data.tags
    )
    clone.said("exp", "apply", name)
    summary = (clone.folder / "data" / "report" / "summary.json").read_text(encoding="utf-8")
    sparsity = yaml.safe_load(summary)["mean"]["sparsity"]
    assert abs(sparsity - run.data.metrics["mean/sparsity"]) < 1e-4
    ran = set(clone.dvc("repro"))
    assert ran <= {"track"}, f"ran {ran}"
    return f"{name}: nothing ran again but {', '.join(ran) or 'nothing'}"


def metrics_diff(clone: Repository) -> str:
    """Compare the metrics of the workspace with those of the commit."""
    rows = clone.said("metrics", "diff", "--md", "--all").splitlines()[2:]
    names = [row.split("|")[2].strip() for row in rows if row.startswith("|")]
    assert "mean.target_ppl_ratio" in names, names
    return f"{len(names)} metrics side by side"


def plots_diff(clone: Repository) -> str:
    """Draw the plots of the workspace and of the commit on one page."""
    clone.said("plots", "diff", "HEAD", "--out", "plots")
    page = (clone.folder / "plots" / "index.html").read_text(encoding="utf-8")
    pictures = list((clone.folder / "plots").rglob("*.png"))
    assert pictures, "no pictures"
    assert "Losses of the embedded model" in page
    return f"{len(pictures)} pictures, titled curves"


def registered_model(clone: Repository) -> str:
    """Register the removed model, load it back by its address, and compare its answers."""
    clone.set(track={"model": True, "register": "without-building"})
    ran = set(clone.dvc("repro"))
    assert ran == {"check", "track"}, f"ran {ran}"
    code = Path(__file__).with_name("loaded_model.py").read_text(encoding="utf-8")
    done = clone.run("python", "-c", code, "without-building")
    clone.set(track={"model": False, "register": ""})
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def settings(changes: tuple[str, ...]) -> list[str]:
    """Return the arguments that set parameters."""
    return [argument for change in changes for argument in ("-S", change)]


def lock(clone: Repository) -> dict[str, Any]:
    """Return the stages of dvc.lock."""
    text = (clone.folder / "dvc.lock").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text)["stages"])


def inputs(stage: dict[str, Any]) -> tuple[object, ...]:
    """Return what a stage was run on: the hashes of files, the values of parameters."""
    files = sorted((dep["path"], dep["md5"]) for dep in stage.get("deps", []))
    return stage["cmd"], files, stage.get("params", {}).get("params.yaml")


def commit(clone: Repository, words: str) -> None:
    """Commit everything that git would take."""
    for command in (["add", "-A"], ["commit", "-qm", words]):
        done = clone.run("git", *command)
        assert done.returncode == 0, done.stderr


def restore(clone: Repository) -> None:
    """Put the workspace back to the commit, figures and masks too."""
    clone.run("git", "checkout", "-q", ".")
    clone.said("checkout", "-q", "--force")
    assert set(clone.dvc("repro")) <= {"track"}
