"""Where things are tried, and what came of it: scratch checkouts, digests, one row per case."""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.pipeline.conftest import Repository, make_clone
from tests.tour.store import HEADLINE, KIND, PARENT, all_runs

VARYING = re.compile(rb"\b[0-9a-f]{40}\b")
"""What differs between two runs: the commit of a scratch checkout, which the report names."""
TEXTS = (".html", ".json", ".md")
"""Endings of files in which it may stand."""


@dataclass
class Outcome:
    """One row of the table."""

    case: str
    """What was done."""
    tried: int = 0
    """Times that it was done."""
    lost: list[str] = field(default_factory=list)
    """What did not survive, one line each."""
    note: str = ""
    """What is worth knowing."""

    def check(self, well: bool, otherwise: str) -> None:
        """Count one trial, and what was wrong with it."""
        self.tried += 1
        if not well:
            self.lost.append(" ".join(otherwise.split())[:300])


@dataclass(frozen=True)
class Ground:
    """What every case is given."""

    folder: Path
    """Scratch folder."""
    seed: int = 0
    """Seed of everything that is drawn."""
    amount: float = 1.0
    """Share of the full number of trials."""

    def number(self, full: int) -> int:
        """Return how often to try what is tried `full` times in all."""
        return max(1, round(full * self.amount))

    def fresh(self, name: str) -> Repository:
        """Return a checkout in which nothing has run."""
        folder = self.folder / name / "clone"
        shutil.rmtree(folder.parent, ignore_errors=True)
        clone = make_clone(folder)
        clone.set(seeds=[0], train={"grad_accumulation": 2})
        commit(clone)
        return clone

    def whole(self) -> Repository:
        """Return the checkout of the undisturbed run, which is made once."""
        folder = self.folder / "whole" / "clone"
        if (folder / "mlflow" / "tracked.json").is_file():
            return Repository(folder, _environment_of(folder))
        clone = self.fresh("whole")
        clone.dvc("repro")
        return clone

    def copy(self, name: str) -> Repository:
        """Return a copy of the checkout of the undisturbed run."""
        source = self.whole().folder
        folder = self.folder / name / "clone"
        shutil.rmtree(folder.parent, ignore_errors=True)
        shutil.copytree(source, folder, symlinks=True)
        return replace(self.whole(), folder=folder, environment=_environment_of(folder))


def _environment_of(folder: Path) -> dict[str, str]:
    from tests.pipeline.conftest import _environment

    return _environment(folder.parent)


def commit(clone: Repository) -> None:
    """Commit everything that git would take."""
    for command in (["add", "-A"], ["commit", "-qm", "tried"]):
        clone.run("git", *command)


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of everything that the stages have written."""
    found = {}
    for path in sorted((folder / "data").rglob("*")):
        name = path.relative_to(folder / "data")
        if path.is_file() and name.parts[0] != "raw" and path.name != ".gitignore":
            content = path.read_bytes()
            if path.suffix in TEXTS:
                content = VARYING.sub(b"", content)
            found[str(name)] = hashlib.sha256(content).hexdigest()
    return found


def differences(one: Path, other: Path) -> list[str]:
    """Return the results in which two checkouts differ."""
    first, second = digests(one), digests(other)
    return sorted(name for name in first | second if first.get(name) != second.get(name))


def store_faults(folder: Path, expected: int = 1) -> list[str]:
    """Return what is wrong with the store of a checkout in which runs were killed.

    Args:
        folder: Root of the checkout.
        expected: Number of experiments, each of which must be whole.

    Returns:
        One line per fault.
    """
    _, runs = all_runs(folder)
    whole = [run for run in runs if run.data.tags[KIND] == "experiment"]
    faults = [] if len(whole) == expected else [f"{len(whole)} experiments, not {expected}"]
    states = Counter(run.info.status for run in runs)
    faults += [f"{states[name]} runs {name}" for name in ("RUNNING", "SCHEDULED") if states[name]]
    for run in whole:
        name = run.info.run_name
        faults += [f"{name} has no {key}" for key in HEADLINE if key not in run.data.metrics]
        if run.info.status != "FINISHED":
            faults.append(f"{name} is {run.info.status}")
        own = [child for child in runs if child.data.tags.get(PARENT) == run.info.run_id]
        done = [child.info.run_name for child in own if child.info.status == "FINISHED"]
        faults += [f"{name}: {stage} twice" for stage, n in Counter(done).items() if n > 1]
        if len(set(done)) != int(run.data.tags.get("knowsub.stages", -1)):
            faults.append(f"{name}: {len(set(done))} stages")
    return faults


def last_line(text: str) -> str:
    """Return the last line of what a command said."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""


def say(words: str) -> None:
    """Write a line of progress."""
    sys.stderr.write(f"{words}\n")
    sys.stderr.flush()
