"""Other methods beside the trained masks, as a table of the page."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from knowsub.report.catalogue import ENTRIES, printed
from knowsub.report.collect import Item
from knowsub.report.summary import mask_figures, mean_figures, summarise
from knowsub.statistics.hypotheses import holm

TRAINED = "trained mask"
"""Name of the trained masks in the table of methods."""

METHOD_FIGURES = (
    "target_ppl_ratio", "paraphrase_ppl_ratio", "control_ppl_ratio", "heldout_ppl_ratio",
    "near_ppl_ratio", "text_ppl_ratio", "choice_accuracy", "target_dnll_at_equal_control",
)  # fmt: skip
"""Figures by which methods are compared on the page."""


def methods(items: Sequence[Item]) -> dict[str, Any] | None:
    """Return the table of the other methods beside the trained masks.

    Args:
        items: All masks.

    Returns:
        `columns` and `rows` of means over masks; None if no method was tested.
    """
    baselines = {row["method"]: row for row in summarise(items)["baselines"]}
    if not baselines:
        return None
    rows = {TRAINED: mean_figures([mask_figures(item) for item in items])} | baselines
    names = [n for n in METHOD_FIGURES if any(n in row for row in baselines.values())]
    leads = _leads(items)
    columns = [{"label": ENTRIES[n].label, "meaning": ENTRIES[n].meaning} for n in names]
    columns.append({"label": "trained leads by", "meaning": "target NLL, Hodges-Lehmann, median"})
    columns.append({"label": "largest p", "meaning": "Wilcoxon over facts, Holm over masks"})
    return {
        "columns": columns,
        "rows": [
            {"name": name.replace("_", " "), "total": name == TRAINED,
             "cells": [*(printed(n, row.get(n)) for n in names), *leads.get(name, ("–", "–"))]}
            for name, row in rows.items()
        ],
    }  # fmt: skip


def _leads(items: Sequence[Item]) -> dict[str, tuple[str, str]]:
    """Method -> the trained masks' lead on the target and the largest p, Holm over masks."""
    found = {}
    for method in dict.fromkeys(name for item in items for name in item.against):
        own = [item.against[method] for item in items if method in item.against]
        effect = median(row["effect"] for row in own)
        largest = max(holm([row["pvalue"] for row in own]))
        found[method] = (f"{effect:.2f} nats", f"{largest:.2g}")
    return found
