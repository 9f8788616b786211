"""Downstream finetuning as a table of the page."""

from __future__ import annotations

from collections.abc import Sequence

from knowsub.report.collect import Item, Row
from knowsub.report.places import Table

MODELS = {"original": "original", "random": "random removed", "remaining": "critical removed"}
"""Name of a model in `results.json` -> its name on the page."""

GROUPS = {"target": "on the target", "near": "near it", "other": "other"}
"""Group of questions -> its name on the page."""


def downstream_table(items: Sequence[Item]) -> Table | None:
    """Return accuracy by adaptation and model, mean over masks.

    Args:
        items: All masks.

    Returns:
        The table; None without results.
    """
    scores = [row for item in items for row in item.finetune.get("scores", [])]
    if not scores:
        return None
    groups = [group for group in GROUPS if any(row["group"] == group for row in scores)]
    kinds = dict.fromkeys((row["adaptation"], row["model"]) for row in scores)
    rows = []
    for adaptation, model in kinds:
        own = [r for r in scores if (r["adaptation"], r["model"]) == (adaptation, model)]
        label = "not finetuned" if adaptation == "none" else adaptation
        cells = [_mean(own, group, "accuracy") for group in groups]
        rows.append([label, MODELS.get(model, model), *cells, _mean(own, "target", "filtered")])
    chance = {f"{item.finetune['questions']['chance']:.0%}" for item in items if item.finetune}
    note = (
        "Multiple-choice questions answered rightly, mean over masks and repeats (chance "
        f"{', '.join(sorted(chance))}). Known before: target questions that the original model, "
        "finetuned the same way, gets right."
    )
    columns = ["trained", "model", *(GROUPS[group] for group in groups), "target, known before"]
    return Table("Finetuning", note, columns, 2, rows)


def _mean(rows: Sequence[Row], group: str, figure: str) -> str:
    values = [r[figure] for r in rows if r["group"] == group and r[figure] is not None]
    return f"{sum(values) / len(values):.1%}" if values else "–"
