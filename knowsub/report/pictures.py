"""Which pictures the report shows, and the values that each of them is drawn from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from knowsub.plots.curves import (
    Course,
    Points,
    fact_bars,
    recovery_curves,
    tradeoff,
    training_curves,
)
from knowsub.plots.maps import cross_map
from knowsub.plots.style import Figure
from knowsub.report import maps as places
from knowsub.report.collect import Analysis, Item
from knowsub.report.cross import matrices
from knowsub.report.facts import target_bars
from knowsub.report.recovery import recovery


@dataclass(frozen=True)
class Picture:
    """One picture of the report."""

    name: str
    """File name without ending."""
    caption: str
    """What it shows and how to read it."""
    figure: Figure
    """The drawing."""


Drawing = Callable[[Sequence[Item], Analysis], Figure | None]


def pictures(items: Sequence[Item], analysis: Analysis) -> Iterator[Picture]:
    """Yield every picture that there are values for, in order of the page.

    Args:
        items: All masks.
        analysis: What the stage `analyze` wrote.

    Yields:
        The pictures.
    """
    for name, (draw, caption) in DRAWINGS.items():
        figure = draw(items, analysis)
        if figure is not None:
            yield Picture(name, caption, figure)


def _facts(items: Sequence[Item], analysis: Analysis) -> Figure | None:
    bars = {item.target: target_bars(item.facts) for item in reversed(items)}
    bars = {target: rows for target, rows in reversed(bars.items()) if rows}
    return fact_bars(bars) if bars else None


def _training(items: Sequence[Item], analysis: Analysis) -> Figure | None:
    courses: dict[str, list[Course]] = {}
    for item in items:
        if item.curve:
            courses.setdefault(item.target, []).append(_course(item))
    return training_curves(courses) if courses else None


def _course(item: Item) -> Course:
    def points(name: str) -> Points:
        return [(row["step"], row[name]) for row in item.curve if name in row and "step" in row]

    chosen = item.training.get("chosen", {})
    step = chosen.get("step", 0) if isinstance(chosen, dict) else chosen
    return Course(
        name=f"seed {item.seed}",
        target_nll=points("validation_target_nll"),
        control_ratio=points("validation_control_ratio"),
        density=points("validation_density"),
        chosen=int(step),
    )


def _tradeoff(items: Sequence[Item], analysis: Analysis) -> Figure | None:
    rows = analysis.get("function", {}).get("tradeoff", [])
    methods: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        sizes = methods.setdefault(row["method"], {})
        sizes.setdefault(row["name"], []).append((row["control_dnll"], row["target_dnll"]))
    means = {
        method: [(float(size), *np.mean(values, axis=0).tolist()) for size, values in sizes.items()]
        for method, sizes in methods.items()
    }
    return tradeoff(means) if means else None


def _recovery(items: Sequence[Item], analysis: Analysis) -> Figure | None:
    panes, xlabel, ylabel = recovery(items)
    return recovery_curves(panes, xlabel, ylabel) if panes else None


def _cross(items: Sequence[Item], analysis: Analysis) -> Figure | None:
    found = list(matrices(items).values())
    targets = list(dict.fromkeys(item.target for item in items))
    return cross_map(targets, np.mean(found, axis=0)) if found else None


DRAWINGS: Mapping[str, tuple[Drawing, str]] = {
    "facts": (
        _facts,
        "Every target fact before and after removal (first seed of each target). A long bar means "
        "that the tail has become unlikely.",
    ),
    "tradeoff": (
        _tradeoff,
        "What the target loses against what held-out control facts lose as masks grow: random "
        "parts of the trained mask up to all of it, and the other methods' masks from a part to a "
        "multiple of its size (the ring is its size). Mean over targets.",
    ),
    "cross": (
        _cross,
        "What removing the subnetwork of one target (row) does to the facts of each (column), mean "
        "over seeds. A selective removal is bright on the diagonal and dark elsewhere.",
    ),
    "training": (
        _training,
        "Validation figures while each mask is trained, one colour per seed; the ring is the "
        "checkpoint chosen by the written rule, on validation data alone.",
    ),
    "density": (
        places.density,
        "Where the subnetworks lie: share of each matrix that belongs to it, by block and type of "
        "matrix, mean over seeds.",
    ),
    "heads": (
        places.heads,
        "Attention heads: density over that of all heads, mean over seeds. 1.00 is uniform "
        "placement; orange is more, purple less.",
    ),
    "overlap": (
        places.overlap,
        "Weights that two masks share, over what independent masks of the same densities per "
        "matrix would share. 1 is chance.",
    ),
    "recovery": (
        _recovery,
        "Recovery by finetuning: accuracy on questions about the target as training goes on, mean "
        "over masks and repeats.",
    ),
}
"""Name -> how it is drawn, and its caption; in order of the page."""
