"""The courses of finetuning, as the picture of recovery needs them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from knowsub.plots.curves import Points
from knowsub.report.collect import Item

MODELS = ("original", "random", "remaining")
"""Models in order of the legend; others follow."""


def recovery(items: Sequence[Item]) -> tuple[dict[str, dict[str, Points]], str, str]:
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
