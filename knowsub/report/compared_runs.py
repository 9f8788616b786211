"""Other runs beside this one: their summaries, metric by metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from knowsub.report.collect import read_json
from knowsub.report.metrics import METRIC_SPECS, Figures, meets_threshold, printed

THIS = "this run"
"""Name of the run that the report is of."""

SHOWN = (
    "sparsity", "target_ppl_ratio", "paraphrase_ppl_ratio", "heldout_ppl_ratio", "neighborhood_ppl_ratio",
    "choice_accuracy", "choice_reference", "target_median_rank", "random_object_rank",
    "extraction_top10", "subject_identifiability", "subject_identifiability_chance",
)  # fmt: skip
"""Figures by which runs are compared on the page."""


def read_summaries(folder: Path) -> dict[str, list[Figures]]:
    """Return the figures of the masks of other runs.

    Args:
        folder: Where copies of their `summary.json` lie, each under the name of its run.

    Returns:
        Run -> one object of figures per mask, runs in order of their names; none if there is no
        such folder.

    Raises:
        ValueError: If a file is no summary.
    """
    return {path.stem: _masks(path) for path in sorted(folder.glob("*.json"))}


def _masks(path: Path) -> list[Figures]:
    masks = read_json(path).get("masks")
    if not isinstance(masks, list) or not masks:
        raise ValueError(f"{path}: no list of masks; a copy of a run's summary.json is expected")
    return [{name: row[name] for name in row if name in METRIC_SPECS} for row in masks]


def compared_runs(
    own: Sequence[Figures], others: Mapping[str, Sequence[Figures]], bars: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return the table of other runs beside this one.

    Args:
        own: Figures of this run's masks.
        others: Run -> figures of its masks.
        bars: Figure -> bar.

    Returns:
        `columns` and `rows` of median, least and greatest over masks, and how many masks miss the
        figure's bar; None if there is no other run.
    """
    if not others:
        return None
    runs = {THIS: own, **others}
    names = [n for n in SHOWN if any(n in row for rows in runs.values() for row in rows)]
    return {
        "columns": [
            {"label": METRIC_SPECS[n].label, "meaning": METRIC_SPECS[n].meaning, "bar": bars.get(n, "")}
            for n in names
        ],
        "rows": [
            {"name": name, "masks": len(rows), "total": name == THIS,
             "cells": [_cell(n, [row[n] for row in rows if n in row], bars.get(n)) for n in names]}
            for name, rows in runs.items()
        ],
    }  # fmt: skip


def _cell(name: str, values: Sequence[float], bar: str | None) -> dict[str, Any]:
    if not values:
        return {"text": printed(name, None), "range": "", "missed": 0}
    ends = (printed(name, end) for end in (min(values), max(values)))
    missed = sum(meets_threshold(value, bar) is False for value in values)
    return {"text": printed(name, median(values)), "range": " to ".join(ends), "missed": missed}
