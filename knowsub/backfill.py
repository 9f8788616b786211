"""The run of a whole experiment: headline figures of all masks, and stages that DVC did not run.

What DVC takes from its cache was logged, if at all, with another experiment. So the last stage
reads the files of all stages and gives every experiment the same runs, whatever was cached.
"""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from knowsub.experiment import experiment, item_name, view_path
from knowsub.logged_model import log_model
from knowsub.provenance import locked
from knowsub.config import Params
from knowsub.stage_run import await_writer
from knowsub.tracking import ITEM, SOURCE, STAGE, Point, Store

ONCE = ("prepare", "pretrain", "verbalize", "analyze", "report")
"""Stages that run once."""
PER_MASK = ("train", "baseline", "test", "finetune")
"""Stages that run for every target and seed."""
POINTS = 200
"""Rows kept of a curve at most."""
CACHED = "dvc-cache"
"""Source of a run whose stage did not run for this experiment."""

Model = tuple[str, Mapping[str, Any]]
"""Name of the mask that was removed, and the remaining `model` with its `tokenizer`."""


def items(params: Params) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield every stage with what it works on: nothing, or each target and seed.

    Args:
        params: The configuration.

    Yields:
        Name of the stage, and its item.
    """
    for stage in ONCE:
        yield stage, {}
    for stage in PER_MASK:
        for target in params.targets:
            for seed in params.seeds:
                yield stage, {"target": target, "seed": seed}


def fill_experiment(params: Params, data: Path, models: Iterable[Model] = ()) -> tuple[str, str]:
    """Complete the run of the experiment from the files of its stages.

    Args:
        params: The configuration.
        data: Folder that the stages write to.
        models: Remaining models to be stored with the run.

    Returns:
        Key of the experiment, and where `make ui` shows it, below the address of the UI.

    Raises:
        FileNotFoundError: If the report's summary is not there.
        ValueError: If the summary is not what `report` writes.
    """
    report = data / "report"
    summary = read_summary(report / "summary.json")
    begun = experiment(params)
    await_writer(begun)
    with locked(begun.folder / "track.lock"):  # the same experiment may end twice at once
        store = Store(begun)
        total, cached = _backfill(store, params, data)
        store.params(store.parent, begun.values)
        store.metrics(store.parent, _points(headline(summary)))
        counts = {"knowsub.stages": str(total), "knowsub.stages_from_cache": str(cached)}
        store.tags(store.parent, counts)
        for path in (report / "summary.json", report / "report.html"):
            if path.is_file():
                store.artifact(store.parent, path)
        for path in sorted((report / "figures").glob("*.png")):
            store.artifact(store.parent, path, "figures")
        for name, parts in models:
            log_model(store, store.parent, name, parts, params.track.register)
        store.end(store.parent, "FINISHED")
    return begun.key, view_path(store.group)


def read_summary(path: Path) -> dict[str, Any]:
    """Return the report's summary.

    Args:
        path: `summary.json`.

    Returns:
        The summary, with its list `masks`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no list of masks.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; the stage report writes it")
    summary = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(summary, dict) or not isinstance(summary.get("masks"), list):
        raise ValueError(f"{path}: holds no list of masks")
    return summary


def headline(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the mean figures of the report's summary, and those of every mask.

    Args:
        summary: The report's summary.

    Returns:
        `mean/sparsity` and `per_mask/building.n.01-0/sparsity` and the like, to five digits, as
        a list of runs has room for; `summary.json` has them whole.
    """
    figures = dict(_numbers(summary.get("mean", {}), "mean"))
    for mask in summary["masks"]:
        place = item_name({"target": mask["target"], "seed": mask["seed"]})
        own = {name: value for name, value in mask.items() if name not in ("target", "seed")}
        figures |= _numbers(own, f"per_mask/{place}")
    return {name: float(f"{value:.5g}") for name, value in figures.items()}


def _backfill(store: Store, params: Params, data: Path) -> tuple[int, int]:
    """Log the stages that did not run for this experiment; count all, and the cached ones."""
    done: set[tuple[str, str]] = set()
    cached = 0
    for run in store.children():
        if run.info.status == "RUNNING":
            store.replace(run)
        if run.info.status == "FINISHED":
            done.add((run.data.tags[STAGE], run.data.tags[ITEM]))
            cached += run.data.tags[SOURCE] == CACHED
    total = len(done)
    for stage, item in items(params):
        folder = data / stage / item_name(item)
        if (stage, item_name(item)) in done or not folder.is_dir():
            continue
        run_id = store.begin(stage, item, {SOURCE: CACHED})
        store.metrics(run_id, _file_points(folder))
        store.end(run_id, "FINISHED")
        total, cached = total + 1, cached + 1
    return total, cached


def _points(figures: Mapping[str, float], step: int = 0) -> Iterator[Point]:
    now = int(time.time() * 1000)
    return ((name, value, now, step) for name, value in figures.items())


def _file_points(folder: Path) -> Iterator[Point]:
    """Yield the numbers of a stage's JSON files and the curves of its CSV files."""
    for path in sorted(folder.glob("*.json")):
        tree = json.loads(path.read_text(encoding="utf-8"))
        yield from _points(dict(_numbers(tree, "")))
    for path in sorted(folder.glob("curve*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row in rows[:: math.ceil(len(rows) / POINTS) or 1]:
            yield from _points(dict(_row_numbers(row)), int(float(row.get("step") or 0)))


def _row_numbers(row: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    for name, text in row.items():
        try:
            value = float(text)
        except ValueError:
            continue
        if name != "step":
            yield name, value


def _numbers(tree: Any, prefix: str) -> Iterator[tuple[str, float]]:
    """Yield the numbers of nested mappings under their joined names; lists are left out."""
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from _numbers(value, f"{prefix}/{name}" if prefix else str(name))
    elif isinstance(tree, int | float) and not isinstance(tree, bool):
        yield prefix, float(tree)
