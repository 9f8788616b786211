"""Which pictures the report shows, and the values that each of them is drawn from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from knowsub.architectures import ModuleType
from knowsub.report.collect import Analysis, MaskResult
from knowsub.report.facts import fact_bar_values
from knowsub.report.metrics import matrices
from knowsub.report.plots import (
    Course,
    Figure,
    Grid,
    Points,
    cross_map,
    density_map,
    fact_bars,
    head_map,
    overlap_map,
    recovery_curves,
    tradeoff,
    training_curves,
)


def density(items: Sequence[MaskResult], analysis: Analysis) -> Figure | None:
    """Return the density of every matrix by block and part, one map per target."""
    cells = _by_target(analysis, "cell")
    names = list(dict.fromkeys(name for groups in cells.values() for name in groups))
    split = [name.split(" ")[1:] for name in names]
    blocks = sorted({int(block) for block, _ in split})
    present = {part for _, part in split}
    parts = [str(part) for part in ModuleType if part in present]
    grids = {
        target: np.array(
            [[groups.get(f"block {b} {p}", (np.nan, 1.0))[0] for b in blocks] for p in parts]
        )
        for target, groups in cells.items()
    }
    return density_map(grids, parts, [str(block) for block in blocks]) if grids else None


def heads(items: Sequence[MaskResult], analysis: Analysis) -> Figure | None:
    """Return the density of every head over the mean, one map per target."""
    heads = _by_target(analysis, "head")
    names = [name.split(" ") for groups in heads.values() for name in groups]
    blocks = sorted({int(name[1]) for name in names})
    most = max((int(name[3]) for name in names), default=-1) + 1
    grids = {
        target: np.array(
            [
                [groups.get(f"block {b} head {h}", (0, np.nan))[1] for h in range(most)]
                for b in blocks
            ]
        )
        for target, groups in heads.items()
    }
    return head_map(grids, [f"block {block}" for block in blocks]) if grids else None


def _by_target(analysis: Analysis, level: str) -> dict[str, dict[str, tuple[float, float]]]:
    """Target -> group -> (density, enrichment), means over its seeds; groups in natural order."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for mask in analysis.get("structure", {}).get("masks", []):
        for group in mask["levels"].get(level, {}).get("groups", []):
            values = found.setdefault(mask["target"], {}).setdefault(group["name"], [])
            values.append((group["density"], group["enrichment"]))
    return {
        target: {
            name: (float(np.mean([v[0] for v in values])), float(np.mean([v[1] for v in values])))
            for name, values in groups.items()
        }
        for target, groups in found.items()
    }


def overlap(items: Sequence[MaskResult], analysis: Analysis) -> Figure | None:
    """Return the map of weights shared by every pair of trained masks."""
    names = [item.name for item in items]
    ratios: Grid = np.full((len(names), len(names)), np.nan)
    for pair in analysis.get("overlap", {}).get("pairs", []):
        if pair["first"] in names and pair["second"] in names:
            place = names.index(pair["first"]), names.index(pair["second"])
            ratios[place] = ratios[place[::-1]] = pair["ratio"]
    return overlap_map(names, ratios) if np.isfinite(ratios).any() else None


MODELS = ("original", "random", "remaining")
"""Models in order of the legend; others follow."""


def recovery(items: Sequence[MaskResult]) -> tuple[dict[str, dict[str, Points]], str, str]:
    """Return accuracy on target questions over the steps, mean over masks and repeats.

    Args:
        items: All masks, their finetuning curves with the columns `adaptation`, `model`, `seed`,
            `step`, `split` and `accuracy` [fraction].

    Returns:
        Adaptation -> model -> points, and the labels of both axes; no adaptation if there are no
        curves. A run that stopped early keeps its last value to the end.
    """
    runs: dict[tuple[str, str], list[dict[int, float]]] = defaultdict(list)
    for item in items:
        own: dict[tuple[str, str, str], dict[int, float]] = defaultdict(dict)
        for row in item.finetune_curve:
            if row["split"] == "target":
                key = (row["adaptation"], row["model"], row["seed"])
                own[key][int(row["step"])] = 100 * float(row["accuracy"])
        for (adaptation, model, _), points in own.items():
            runs[adaptation, model].append(points)
    panes: dict[str, dict[str, Points]] = {}
    for adaptation in dict.fromkeys(key[0] for key in runs):
        models = sorted((m for a, m in runs if a == adaptation), key=_place)
        panes[adaptation] = {model: _mean(runs[adaptation, model]) for model in models}
    return panes, "finetuning step", "target questions right [%]"


def _mean(runs: Sequence[dict[int, float]]) -> Points:
    steps = sorted({step for run in runs for step in run})
    points = []
    for step in steps:
        values = [run[max((s for s in run if s <= step), default=min(run))] for run in runs]
        points.append((float(step), sum(values) / len(values)))
    return points


def _place(model: str) -> tuple[int, str]:
    return (MODELS.index(model) if model in MODELS else len(MODELS), model)


@dataclass(frozen=True)
class Picture:
    """One picture of the report."""

    name: str
    """File name without ending."""
    caption: str
    """What it shows and how to read it."""
    figure: Figure
    """The drawing."""


Drawing = Callable[[Sequence[MaskResult], Analysis], Figure | None]


def pictures(items: Sequence[MaskResult], analysis: Analysis) -> Iterator[Picture]:
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


def _facts(items: Sequence[MaskResult], analysis: Analysis) -> Figure | None:
    bars = {item.target: fact_bar_values(item.facts) for item in reversed(items)}
    bars = {target: rows for target, rows in reversed(bars.items()) if rows}
    return fact_bars(bars) if bars else None


def _training(items: Sequence[MaskResult], analysis: Analysis) -> Figure | None:
    courses: dict[str, list[Course]] = {}
    for item in items:
        if item.curve:
            courses.setdefault(item.target, []).append(_course(item))
    return training_curves(courses) if courses else None


def _course(item: MaskResult) -> Course:
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


def _tradeoff(items: Sequence[MaskResult], analysis: Analysis) -> Figure | None:
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


def _recovery(items: Sequence[MaskResult], analysis: Analysis) -> Figure | None:
    panes, xlabel, ylabel = recovery(items)
    return recovery_curves(panes, xlabel, ylabel) if panes else None


def _cross(items: Sequence[MaskResult], analysis: Analysis) -> Figure | None:
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
        density,
        "Where the subnetworks lie: share of each matrix that belongs to it, by block and type of "
        "matrix, mean over seeds.",
    ),
    "heads": (
        heads,
        "Attention heads: density over that of all heads, mean over seeds. 1.00 is uniform "
        "placement; orange is more, purple less.",
    ),
    "overlap": (
        overlap,
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
