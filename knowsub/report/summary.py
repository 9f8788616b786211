"""The headline figures of all masks, their means, and whether they reach their bars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from knowsub.analysis.options import BAR
from knowsub.report.catalogue import DERIVED, ENTRIES, HEADLINE, MEANS, Better
from knowsub.report.collect import Item

Figures = dict[str, float]


def mask_figures(item: Item) -> Figures:
    """Return the catalogued figures of one mask, those derived for the tables included.

    Args:
        item: The mask.

    Returns:
        Name -> value, in the catalogue's order; figures that were not computed, or are not
        finite, are absent.
    """
    return _catalogued(item.figures)


def summarise(items: Sequence[Item]) -> dict[str, Any]:
    """Return what `summary.json` holds.

    Args:
        items: All masks.

    Returns:
        `masks` (one object per target and seed), `baselines` (one object per method), and `mean`
        (a dozen mean figures of the masks). Means are geometric for PPL ratios, else arithmetic.
    """
    figures = [_kept(mask_figures(item)) for item in items]
    masks = [
        {"target": item.target, "seed": item.seed} | own
        for item, own in zip(items, figures, strict=True)
    ]
    mean = mean_figures(figures)
    methods = dict.fromkeys(name for item in items for name in item.methods)
    baselines = [
        {"method": name}
        | mean_figures([_kept(_catalogued(item.methods.get(name, {}))) for item in items])
        for name in methods
    ]
    return {
        "masks": masks,
        "baselines": baselines,
        "mean": {name: mean[name] for name in MEANS if name in mean},
    }


def mean_figures(rows: Sequence[Mapping[str, float]]) -> Figures:
    """Return the mean of every figure over the rows that have it.

    Args:
        rows: Figures of several masks.

    Returns:
        Name -> mean: geometric for positive PPL ratios, else arithmetic.
    """
    means = {}
    for name in _names(rows):
        values = [row[name] for row in rows if name in row]
        if name.endswith("_ppl_ratio") and min(values) > 0:
            means[name] = math.exp(sum(math.log(value) for value in values) / len(values))
        else:
            means[name] = sum(values) / len(values)
    return means


def median_figures(rows: Sequence[Mapping[str, float]]) -> Figures:
    """Return the median of every figure over the rows that have it."""
    return {name: median(row[name] for row in rows if name in row) for name in _names(rows)}


def worst_figures(rows: Sequence[Mapping[str, float]]) -> Figures:
    """Return the worst value of every figure that has a better side.

    Args:
        rows: Figures of several masks.

    Returns:
        Name -> value; each may come from another mask.
    """
    worst = {}
    for name in _names(rows):
        values = [row[name] for row in rows if name in row]
        better = ENTRIES[name].better
        if better is Better.UP:
            worst[name] = min(values)
        elif better is Better.DOWN:
            worst[name] = max(values)
        elif better is Better.ONE:
            worst[name] = max(values, key=lambda value: abs(math.log(max(value, 1e-9))))
    return worst


def meets(value: float | None, bar: str | None) -> bool | None:
    """Return whether a figure reaches its bar.

    Args:
        value: The figure, None if it was not computed.
        bar: A bar such as `<= 1.05`, None if there is none.

    Returns:
        True or False; None where there is no bar. A missing or non-finite figure misses its bar.

    Raises:
        ValueError: If the bar is not of that form.
    """
    if bar is None:
        return None
    match = BAR.match(bar)
    if match is None:
        raise ValueError(f"bar {bar!r} is not of the form '>= 0.98' or '<= 1.05'")
    if value is None or not math.isfinite(value):
        return False
    limit = float(match[2])
    return value >= limit if match[1] == ">=" else value <= limit


def missed(item: Item, bars: Mapping[str, str]) -> list[str]:
    """Return the names of the bars that a mask does not reach, in the order of the bars."""
    figures = mask_figures(item)
    return [name for name, bar in bars.items() if meets(figures.get(name), bar) is False]


def headline_names(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the headline figures that any row has, in order."""
    return [entry.name for entry in HEADLINE if any(entry.name in row for row in rows)]


def _catalogued(figures: Mapping[str, float]) -> Figures:
    known = dict(figures)
    text, random = figures.get("text_ppl_ratio"), figures.get("random_text_ppl_ratio")
    if text is not None and random:
        known["text_vs_random"] = text / random
    found = {name: float(known[name]) for name in ENTRIES if known.get(name) is not None}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _kept(figures: Mapping[str, float]) -> Figures:
    return {name: value for name, value in figures.items() if name not in DERIVED}


def _names(rows: Sequence[Mapping[str, float]]) -> list[str]:
    return [name for name in ENTRIES if any(name in row for row in rows)]
