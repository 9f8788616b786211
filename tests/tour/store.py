"""What the one store of runs must hold after every step of the tour."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import Run

HEADLINE = ("mean/sparsity", "mean/target_ppl_ratio", "mean/control_ppl_ratio")
"""Figures that every run of an experiment has."""
CHOICES = ("targets", "seeds", "train.lr", "report.title")
"""Parameters that every run of an experiment has."""
KIND, PARENT = "knowsub.kind", "mlflow.parentRunId"


def all_runs(folder: Path) -> tuple[str, list[Run]]:
    """Return the identifier of the MLflow experiment, and all runs in it.

    Read from a copy: MLflow keeps a database open once it has been read, also one that was deleted.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory() as scratch:
        copy = shutil.copy(folder / "mlflow" / "mlflow.db", scratch)
        store = MlflowClient(f"sqlite:///{copy}")
        group = store.get_experiment_by_name("knowsub")
        assert group is not None
        runs = store.search_runs([group.experiment_id], max_results=10_000)
    return str(group.experiment_id), list(runs)


def experiments(folder: Path) -> dict[str, Run]:
    """Return the run of every experiment by its name, newest first."""
    found = [run for run in all_runs(folder)[1] if run.data.tags[KIND] == "experiment"]
    return {str(run.info.run_name): run for run in found}


def check_store(folder: Path, expected: int) -> str:
    """Fail unless the store holds that many experiments, each whole, none doubled or open.

    Args:
        folder: Root of the clone.
        expected: Number of experiments.

    Returns:
        What was found, in words.
    """
    _, runs = all_runs(folder)
    whole = [run for run in runs if run.data.tags[KIND] == "experiment"]
    stages = [run for run in runs if run.data.tags[KIND] == "stage"]
    states = Counter(run.info.status for run in runs)
    assert len(whole) == expected, f"{len(whole)} experiments in the store, not {expected}"
    assert set(states) == {"FINISHED"}, f"runs that are not finished: {dict(states)}"
    assert len({run.data.tags["knowsub.key"] for run in whole}) == expected, "an experiment twice"
    for run in whole:
        lacking = [name for name in HEADLINE if name not in run.data.metrics]
        lacking += [name for name in CHOICES if name not in run.data.params]
        assert not lacking, f"{run.info.run_name} has no {lacking}"
        own = [child for child in stages if child.data.tags[PARENT] == run.info.run_id]
        names = [child.info.run_name for child in own]
        assert len(names) == len(set(names)), f"{run.info.run_name}: stages twice: {names}"
        assert len(names) == int(run.data.tags["knowsub.stages"]), f"{names}"
    waiting = list((folder / "mlflow" / "spool").glob("*.jsonl"))
    assert not waiting, f"not logged: {waiting}"
    return f"{expected} runs, {len(stages)} of stages"
