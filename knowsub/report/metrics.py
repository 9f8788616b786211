"""The metrics of the evidence: name, meaning, direction, format, summary over masks, thresholds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import median
from typing import Any

import numpy as np

from knowsub.report.collect import MaskResult
from knowsub.report.options import THRESHOLD
from knowsub.report.plots import Grid


class Better(StrEnum):
    """Which way a figure is better."""

    UP = "↑"
    DOWN = "↓"
    ONE = "→ 1"
    REFERENCE = "→ ref."
    NONE = ""


@dataclass(frozen=True)
class MetricSpec:
    """One figure of the evidence."""

    name: str
    """Its name in `summary.json`."""
    group: str
    """Group it is printed under."""
    label: str
    """Its name on the page."""
    better: Better
    """Which way is better."""
    meaning: str
    """One line: what it is, with its unit."""


_UP, _DOWN, _ONE, _REF, _NONE = Better

HEADLINE = (
    MetricSpec("sparsity", "size", "sparsity", _UP,
          "maskable weights outside the critical subnetwork [fraction]"),
    MetricSpec("target_ppl_ratio", "efficacy", "target", _UP,
          "target PPL, remaining over original model, training prompts"),
    MetricSpec("paraphrase_ppl_ratio", "generalisation", "unseen prompts", _UP,
          "the same on template families that no mask has seen"),
    MetricSpec("control_ppl_ratio", "specificity", "control, trained", _DOWN,
          "PPL ratio on control facts used in mask training"),
    MetricSpec("heldout_ppl_ratio", "specificity", "control, held out", _DOWN,
          "PPL ratio on control facts used nowhere"),
    MetricSpec("neighborhood_ppl_ratio", "specificity", "near facts", _ONE,
          "PPL ratio on facts outside the target that share a tail or head word with it"),
    MetricSpec("text_vs_random", "utility", "text vs random's", _DOWN,
          "held-out text PPL, critical removed over as many random weights removed"),
    MetricSpec("choice_accuracy", "efficacy", "choice", _REF,
          "true tail against distractors of the same relation [fraction]"),
    MetricSpec("choice_reference", "efficacy", "choice, ignorance", _NONE,
          "what ignorance looks like: the original asked about another head [fraction]"),
    MetricSpec("random_target_ppl_ratio", "validity", "random: target", _DOWN,
          "target PPL ratio after removing as many random weights per site"),
    MetricSpec("all_removed_target_ppl_ratio", "validity", "all removed: target", _UP,
          "target PPL ratio after removing all maskable weights; near 1: the facts live elsewhere"),
)  # fmt: skip
"""The columns of the results table, in order."""

EVIDENCE = (
    MetricSpec("removed_share", "size", "removed share", _DOWN,
          "removed weights over all parameters of the model [fraction]"),
    MetricSpec("forgetting", "efficacy", "forgetting", _UP,
          "way from the original's NLL to the prior over tails, clipped to 0..1; saturates early"),
    MetricSpec("target_median_rank", "efficacy", "median rank", _REF,
          "0-based vocabulary rank of the true tail under the remaining model"),
    MetricSpec("random_object_rank", "efficacy", "rank of a random tail", _NONE,
          "the reference of the median rank: another tail of the same relation"),
    MetricSpec("target_accuracy", "efficacy", "accuracy", _DOWN,
          "target facts whose tail is the remaining model's top answer [fraction]"),
    MetricSpec("subject_identifiability", "efficacy", "head information", _REF,
          "macro accuracy of telling the target's tails apart by head [fraction]"),
    MetricSpec("subject_identifiability_chance", "efficacy", "head information, chance", _NONE,
          "1 over the number of the target's tails: what no information gives [fraction]"),
    MetricSpec("paraphrase_forgetting", "generalisation", "forgetting, unseen prompts", _UP,
          "forgetting on unseen template families"),
    MetricSpec("extraction_top10", "generalisation", "worst-case extraction", _DOWN,
          "target facts whose tail is in the top 10 of any prompt form [fraction]"),
    MetricSpec("neighborhood_accuracy", "specificity", "near accuracy", _UP,
          "near facts whose tail is still the top answer [fraction]"),
    MetricSpec("diagonal_dominance", "specificity", "diagonal dominance", _UP,
          "damage to the own target over the mean damage to other targets [ratio]"),
    MetricSpec("text_ppl_ratio", "utility", "text", _ONE,
          "held-out text PPL, remaining over original model"),
    MetricSpec("random_text_ppl_ratio", "utility", "text, random removal", _NONE,
          "the same after removing as many random weights, mean over random masks"),
    MetricSpec("relearning_recovery", "relearning", "recovery", _DOWN,
          "target regained by finetuning on other target facts [fraction of the loss]"),
    MetricSpec("int8_forgetting", "precision", "forgetting, int8", _UP, "after int8 rounding"),
    MetricSpec("int4_forgetting", "precision", "forgetting, int4", _UP, "after int4 rounding"),
    MetricSpec("random_p", "validity", "p against random", _DOWN,
          "share of random masks of the same size that do as much, (1 + k) / (1 + N)"),
    MetricSpec("head_target_accuracy", "downstream", "questions on the target", _DOWN,
          "multiple choice with a finetuned head, critical removed [fraction]"),
    MetricSpec("head_other_accuracy", "downstream", "other questions", _UP,
          "the same on questions that do not concern the target [fraction]"),
    MetricSpec("random_head_target_accuracy", "downstream", "target questions, random removal", _NONE,
          "the reference: as many random weights removed [fraction]"),
)  # fmt: skip
"""The other figures, in order of print."""

METHODS = (
    MetricSpec("target_dnll_at_equal_control", "methods", "target, equal control damage", _UP,
          "target NLL lost at the size that costs the controls as much as the trained mask [nats]"),
)  # fmt: skip
"""Figures of other methods alone."""

METRIC_SPECS = {entry.name: entry for entry in (*HEADLINE, *EVIDENCE, *METHODS)}
"""Name -> figure."""

MEANS = (
    "sparsity", "target_ppl_ratio", "paraphrase_ppl_ratio", "control_ppl_ratio",
    "heldout_ppl_ratio", "neighborhood_ppl_ratio", "text_ppl_ratio", "forgetting", "choice_accuracy",
    "extraction_top10", "relearning_recovery", "head_target_accuracy",
)  # fmt: skip
"""The dozen figures that experiments are compared by, in `dvc exp show` and MLflow."""

DERIVED = frozenset({"text_vs_random"})
"""Figures computed from others for the tables, not part of `summary.json`."""


def printed(name: str, value: float | None) -> str:
    """Return a figure as it is printed: enough digits to compare, no more.

    Args:
        name: Name of the figure.
        value: Its value, or None.

    Returns:
        Text such as `98.06 %`, `1,770` or `1.012`; a dash for None.
    """
    if value is None:
        return "–"
    if name in ("sparsity", "removed_share"):
        return f"{100 * value:.2f} %"
    size = abs(value)
    if size >= 100_000:
        return f"{value:.1e}".replace("e+0", "e").replace("e+", "e")
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if 0 < size < 0.001:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.3f}"


Figures = dict[str, float]


def mask_figures(item: MaskResult) -> Figures:
    """Return the catalogued figures of one mask, those derived for the tables included.

    Args:
        item: The mask.

    Returns:
        Name -> value, in the catalogue's order; figures that were not computed, or are not
        finite, are absent.
    """
    return _catalogued(item.metrics)


def summarise(items: Sequence[MaskResult]) -> dict[str, Any]:
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
        better = METRIC_SPECS[name].better
        if better is Better.UP:
            worst[name] = min(values)
        elif better is Better.DOWN:
            worst[name] = max(values)
        elif better is Better.ONE:
            worst[name] = max(values, key=lambda value: abs(math.log(max(value, 1e-9))))
    return worst


def meets_threshold(value: float | None, bar: str | None) -> bool | None:
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
    match = THRESHOLD.match(bar)
    if match is None:
        raise ValueError(f"bar {bar!r} is not of the form '>= 0.98' or '<= 1.05'")
    if value is None or not math.isfinite(value):
        return False
    limit = float(match[2])
    return value >= limit if match[1] == ">=" else value <= limit


def missed_thresholds(item: MaskResult, bars: Mapping[str, str]) -> list[str]:
    """Return the names of the bars that a mask does not reach, in the order of the bars."""
    figures = mask_figures(item)
    return [name for name, bar in bars.items() if meets_threshold(figures.get(name), bar) is False]


def headline_names(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the headline figures that any row has, in order."""
    return [entry.name for entry in HEADLINE if any(entry.name in row for row in rows)]


def _catalogued(figures: Mapping[str, float]) -> Figures:
    known = dict(figures)
    text, random = figures.get("text_ppl_ratio"), figures.get("random_text_ppl_ratio")
    if text is not None and random:
        known["text_vs_random"] = text / random
    found = {name: float(known[name]) for name in METRIC_SPECS if known.get(name) is not None}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _kept(figures: Mapping[str, float]) -> Figures:
    return {name: value for name, value in figures.items() if name not in DERIVED}


def _names(rows: Sequence[Mapping[str, float]]) -> list[str]:
    return [name for name in METRIC_SPECS if any(name in row for row in rows)]


OWN = "target_dnll"
"""The figure that stands on the diagonal."""
SMALLEST = 1e-3
"""Mean damage to other targets that is told from none [nats per token]."""


def matrices(items: Sequence[MaskResult]) -> dict[int, Grid]:
    """Return the cross matrix of every seed.

    Args:
        items: All masks.

    Returns:
        Seed -> E[a, b], dNLL on target b after removing the subnetwork of a [nats per token], for
        the seeds of which every mask was asked about at least two targets.
    """
    targets = list(dict.fromkeys(item.target for item in items))
    found: dict[int, Grid] = {}
    for seed in dict.fromkeys(item.seed for item in items):
        rows = {
            item.target: {**item.cross, item.target: item.metrics[OWN]}
            for item in items
            if item.seed == seed and OWN in item.metrics
        }
        known = all(set(targets) <= row.keys() for row in rows.values())
        if len(targets) > 1 and rows.keys() == set(targets) and known:
            found[seed] = np.array([[rows[a][b] for b in targets] for a in targets])
    return found


def dominance(matrix: Grid) -> float:
    """Return the mean of a cross matrix's diagonal over the mean absolute value off it.

    Args:
        matrix: A square matrix over at least two targets [nats per token].

    Returns:
        The ratio; its denominator is at least 0.001 nat.
    """
    beside = np.abs(matrix[~np.eye(len(matrix), dtype=bool)])
    return float(matrix.diagonal().mean() / max(float(beside.mean()), SMALLEST))


def with_dominance(items: Sequence[MaskResult]) -> list[MaskResult]:
    """Return the masks with the figure `diagonal_dominance` of their seed, where it is known."""
    known: Mapping[int, float] = {seed: dominance(m) for seed, m in matrices(items).items()}
    return [
        replace(item, metrics={**item.metrics, "diagonal_dominance": known[item.seed]})
        if item.seed in known
        else item
        for item in items
    ]
