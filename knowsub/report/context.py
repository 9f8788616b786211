"""The values of the page's tables, ready to be printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from knowsub.report.catalogue import ENTRIES, EVIDENCE, printed
from knowsub.report.collect import Item
from knowsub.report.facts import ROLES, SPLITS
from knowsub.report.summary import (
    Figures,
    headline_names,
    mask_figures,
    median_figures,
    meets,
    missed,
    worst_figures,
)


def cards(items: Sequence[Item], bars: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the figures at the top of the page.

    Args:
        items: All masks.
        bars: Figure -> bar.

    Returns:
        `label`, `value` and `mood` (good, bad or empty) of each.
    """
    middle = median_figures([mask_figures(item) for item in items])
    cards = [
        _card(f"{ENTRIES[name].label} PPL ratio, median" if "ppl" in name else f"{name}, median",
              printed(name, middle[name]), meets(middle[name], bars.get(name)))
        for name in ("sparsity", "target_ppl_ratio", "paraphrase_ppl_ratio", "heldout_ppl_ratio")
        if name in middle
    ]  # fmt: skip
    if bars:
        reached = sum(not missed(item, bars) for item in items)
        text = f"{reached} of {len(items)}"
        cards.append(_card("masks reach every bar", text, reached == len(items)))
    return cards


def _card(label: str, value: str, good: bool | None) -> dict[str, str]:
    mood = {True: "good", False: "bad", None: ""}[good]
    return {"label": label, "value": value, "mood": mood}


def headline(items: Sequence[Item], bars: Mapping[str, str]) -> dict[str, Any]:
    """Return the results table.

    Args:
        items: All masks.
        bars: Figure -> bar.

    Returns:
        `columns` and `rows`, the median and the worst of each column last.
    """
    figures = [mask_figures(item) for item in items]
    names = headline_names(figures)
    rows: list[dict[str, Any]] = [
        {"target": item.target, "seed": str(item.seed), "total": False,
         "cells": _cells(names, row, bars, item.intervals)}
        for item, row in zip(items, figures, strict=True)
    ]  # fmt: skip
    for label, row in (("median", median_figures(figures)), ("worst", worst_figures(figures))):
        cells = _cells(names, row, bars, {})
        rows.append({"target": label, "seed": "", "total": True, "cells": cells})
    columns = [
        {"label": ENTRIES[n].label, "meaning": ENTRIES[n].meaning, "bar": bars.get(n, "")}
        for n in names
    ]
    return {"columns": columns, "rows": rows}


def _cells(
    names: Sequence[str],
    figures: Figures,
    bars: Mapping[str, str],
    intervals: Mapping[str, Sequence[float]],
) -> list[dict[str, Any]]:
    return [
        {
            "text": printed(name, figures.get(name)),
            "missed": name in figures and meets(figures[name], bars.get(name)) is False,
            "interval": _interval(name, intervals.get(name)),
        }
        for name in names
    ]


def _interval(name: str, ends: Sequence[float] | None) -> str:
    return "" if ends is None else " to ".join(printed(name, end) for end in ends)


def evidence(items: Sequence[Item], bars: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the table of the other figures.

    Args:
        items: All masks.
        bars: Figure -> bar.

    Returns:
        Groups of rows, one cell per mask.
    """
    figures = [mask_figures(item) for item in items]
    middle = median_figures(figures)
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in EVIDENCE:
        if entry.name in middle:
            cells = [
                _cells([entry.name], row, bars, item.intervals)[0]
                for item, row in zip(items, figures, strict=True)
            ]
            told = {"label": entry.label, "meaning": entry.meaning, "better": str(entry.better)}
            told["bar"] = bars.get(entry.name, "")
            shown = {"median": printed(entry.name, middle[entry.name]), "cells": cells}
            groups.setdefault(entry.group, []).append(told | shown)
    return [{"name": name, "rows": rows} for name, rows in groups.items()]


def further(items: Sequence[Item]) -> list[list[str]]:
    """Return the figures that the catalogue does not explain: name, median, least and greatest.

    Args:
        items: All masks.

    Returns:
        One row per figure, in alphabetical order.
    """
    names = sorted({name for item in items for name in item.figures} - ENTRIES.keys())
    rows = []
    for name in names:
        values = [float(item.figures[name]) for item in items if name in item.figures]
        cells = [printed(name, value) for value in (median(values), min(values), max(values))]
        rows.append([name.replace("_", " "), *cells])
    return rows


def picks(items: Sequence[Item]) -> list[dict[str, Any]]:
    """Return the choices by which the table of facts is filtered.

    Args:
        items: All masks.

    Returns:
        `name`, `plural`, `column`, `first` choice and `choices` of each.
    """
    return [
        {"name": "mask", "plural": "masks", "column": 0, "first": items[0].name,
         "choices": [item.name for item in items]},
        {"name": "facts", "plural": "facts", "column": 1, "first": "target",
         "choices": list(dict.fromkeys(SPLITS.values()))},
        {"name": "prompts", "plural": "prompts", "column": 2, "first": "trained",
         "choices": list(ROLES.values())},
    ]  # fmt: skip
