"""The metrics: name, label, meaning, format, thresholds, and summaries over masks.

The names of thresholds are held against these when `params.yaml` is read, so nothing heavy is
imported here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import Any

from knowsub.report.collect import MaskResult
from knowsub.report.options import THRESHOLD


class Better(StrEnum):
    """Which values of a metric are better."""

    UP = "↑"
    DOWN = "↓"
    ONE = "→ 1"
    REFERENCE = "→ ref."
    NONE = ""


@dataclass(frozen=True)
class MetricSpec:
    """What the report says about one metric."""

    name: str
    """Its name in `summary.json`."""
    group: str
    """Group that it is listed under."""
    label: str
    """Its name in tables."""
    better: Better
    """Which values are better."""
    meaning: str
    """One line: the definition, with the unit."""


_UP, _DOWN, _ONE, _REF, _NONE = Better

HEADLINE = (
    MetricSpec("sparsity", "size", "sparsity", _UP,
          "maskable weights that stay [fraction]"),
    MetricSpec("target_ppl_ratio", "efficacy", "target facts, PPL ×", _UP,
          "PPL of target facts, remaining over original model, on the prompts of mask training"),
    MetricSpec("paraphrase_ppl_ratio", "generalization", "target, unseen prompts, PPL ×", _UP,
          "the same on template families that no mask was trained on"),
    MetricSpec("control_ppl_ratio", "specificity", "control facts, trained, PPL ×", _DOWN,
          "PPL ratio on control facts used in mask training"),
    MetricSpec("heldout_ppl_ratio", "specificity", "control facts, held out, PPL ×", _DOWN,
          "PPL ratio on control facts used nowhere"),
    MetricSpec("neighborhood_ppl_ratio", "specificity", "neighborhood, PPL ×", _ONE,
          "PPL ratio on held-out facts that share an object or a subject word with the target"),
    MetricSpec("text_vs_random", "utility", "text vs random removal, PPL ×", _DOWN,
          "PPL of held-out text without the subnetwork, over that without as many random weights"),
    MetricSpec("choice_accuracy", "efficacy", "choice accuracy", _REF,
          "multiple choice: true object against distractors of the same relation [fraction]"),
    MetricSpec("choice_reference", "efficacy", "choice (ignorance reference)", _NONE,
          "choice accuracy of the original model asked about another subject [fraction]"),
    MetricSpec("random_target_ppl_ratio", "validity", "target, random mask, PPL ×", _DOWN,
          "PPL ratio of the target facts after removing as many random weights of each matrix"),
    MetricSpec("all_removed_target_ppl_ratio", "validity", "target, all maskable removed, PPL ×",
          _UP, "the same without any maskable weight; near 1, other weights hold the facts"),
)  # fmt: skip
"""The columns of the results table, in order."""

EVIDENCE = (
    MetricSpec("removed_share", "size", "share of all parameters", _DOWN,
          "removed weights over all parameters of the model [fraction]"),
    MetricSpec("forgetting", "efficacy", "forgetting", _UP,
          "way from the original's NLL (0) to that of the prior over objects (1); saturates early"),
    MetricSpec("target_median_rank", "efficacy", "rank of the object", _REF,
          "median 0-based vocabulary rank of the true object under the remaining model"),
    MetricSpec("random_object_rank", "efficacy", "rank of a random object", _NONE,
          "the reference of the rank: another object of the same relation"),
    MetricSpec("target_accuracy", "efficacy", "top-1 accuracy", _DOWN,
          "target facts whose object is the remaining model's top answer [fraction]"),
    MetricSpec("subject_identifiability", "efficacy", "subject identifiability", _REF,
          "macro accuracy of telling the target's objects apart by subject [fraction]"),
    MetricSpec("subject_identifiability_chance", "efficacy", "subject identifiability, chance",
          _NONE, "1 over the number of the target's objects [fraction]"),
    MetricSpec("paraphrase_forgetting", "generalization", "forgetting, unseen prompts", _UP,
          "forgetting on template families that no mask was trained on"),
    MetricSpec("extraction_top10", "generalization", "worst-case extraction", _DOWN,
          "target facts whose object is in the top 10 of any prompt form [fraction]"),
    MetricSpec("target_generated", "generalization", "said in free generation", _DOWN,
          "target facts whose object is in what the model writes after the best prompt [fraction]"),
    MetricSpec("heldout_generated", "specificity", "said in free generation, held out", _UP,
          "the same share of control facts used nowhere"),
    MetricSpec("neighborhood_accuracy", "specificity", "neighborhood accuracy", _UP,
          "neighborhood facts whose object is still the top answer [fraction]"),
    MetricSpec("diagonal_dominance", "specificity", "diagonal dominance", _UP,
          "dNLL of the own target over the mean absolute dNLL of other targets [ratio]"),
    MetricSpec("text_ppl_ratio", "utility", "text, PPL ×", _ONE,
          "PPL of held-out text, remaining over original model"),
    MetricSpec("random_text_ppl_ratio", "utility", "text, random mask, PPL ×", _NONE,
          "the same after removing as many random weights, mean over random masks"),
    MetricSpec("relearning_recovery", "relearning", "recovery", _DOWN,
          "share of the lost accuracy regained by finetuning on other target facts [fraction]"),
    MetricSpec("excess_recovery", "relearning", "excess recovery", _DOWN,
          "area under accuracy while other target facts are finetuned on: 0 as a model that was "
          "never taught the target, 1 as the original"),
    MetricSpec("excess_recovery_5", "relearning", "excess recovery, after 5 steps", _DOWN,
          "the same for the accuracy after 5 steps"),
    MetricSpec("excess_recovery_20", "relearning", "excess recovery, after 20 steps", _DOWN,
          "the same after 20 steps"),
    MetricSpec("excess_recovery_60", "relearning", "excess recovery, after 60 steps", _DOWN,
          "the same after 60 steps"),
    MetricSpec("excess_recovery_control", "relearning", "excess recovery, control facts", _DOWN,
          "the area where no target fact is finetuned on, control facts alone"),
    MetricSpec("excess_recovery_neighborhood", "relearning", "excess recovery, neighborhood", _DOWN,
          "the area where neighborhood facts alone are finetuned on"),
    MetricSpec("excess_recovery_text", "relearning", "excess recovery, text", _DOWN,
          "the area where text alone is finetuned on"),
    MetricSpec("excess_recovery_highest", "relearning", "excess recovery, highest", _DOWN,
          "the largest over all data, methods and learning rates"),
    MetricSpec("random_excess_recovery", "relearning", "excess recovery, random mask", _NONE,
          "the reference: as many random weights removed"),
    MetricSpec("steps_to_half", "relearning", "steps to half", _UP,
          "finetuning steps on other target facts until half of the original's accuracy [steps]"),
    MetricSpec("retain_steps_to_half", "relearning", "steps to half, never taught", _NONE,
          "the same for the model that was never taught the target [steps]"),
    MetricSpec("forget_quality", "never taught", "forget quality", _UP,
          "p of the KS test of truth ratios against the model never taught the target (TOFU)"),
    MetricSpec("forget_quality_nll", "never taught", "forget quality, NLL", _UP,
          "p of the KS test of the facts' NLL against the same model"),
    MetricSpec("random_forget_quality", "never taught", "forget quality, random mask", _NONE,
          "forget quality with as many random weights removed"),
    MetricSpec("original_forget_quality", "never taught", "forget quality, original", _NONE,
          "forget quality of the original model"),
    MetricSpec("retain_target_accuracy", "never taught", "top-1 accuracy, never taught", _NONE,
          "top-1 accuracy on the target of the model that was never taught it [fraction]"),
    MetricSpec("retain_choice_accuracy", "never taught", "choice accuracy, never taught", _NONE,
          "its choice accuracy [fraction]"),
    MetricSpec("retain_target_median_rank", "never taught", "rank, never taught", _NONE,
          "its median rank of the true object"),
    MetricSpec("retain_subject_identifiability", "never taught", "identifiability, never taught",
          _NONE, "its subject identifiability [fraction]"),
    MetricSpec("distance_original_remaining", "never taught", "distance from the original", _NONE,
          "Euclidean distance of all weights over the norm of the original's"),
    MetricSpec("distance_remaining_retain", "never taught", "distance from never taught", _NONE,
          "the same to the model that was never taught the target"),
    MetricSpec("barrier_original_remaining", "never taught", "loss barrier to the original", _NONE,
          "most that control NLL exceeds its ends on the line between the weights [nats]"),
    MetricSpec("barrier_remaining_retain", "never taught", "loss barrier to never taught", _NONE,
          "the same to the model that was never taught the target [nats]"),
    MetricSpec("int8_forgetting", "precision", "forgetting, int8", _UP,
          "forgetting after rounding the weights to int8"),
    MetricSpec("int4_forgetting", "precision", "forgetting, int4", _UP,
          "forgetting after rounding the weights to int4"),
    MetricSpec("random_p", "validity", "p against random masks", _DOWN,
          "(1 + k) / (1 + N), where k of N random masks of the same size do as much damage"),
    MetricSpec("unknown_target_ppl_ratio", "never known", "never known: target, PPL ×", _NONE,
          "PPL ratio on facts of the target that the original model does not know"),
    MetricSpec("unknown_control_ppl_ratio", "never known", "never known: control, PPL ×", _NONE,
          "the same on control facts that the original model does not know"),
    MetricSpec("unknown_neighborhood_ppl_ratio", "never known", "never known: neighborhood, PPL ×",
          _NONE, "the same on such facts that share a word with the target"),
    MetricSpec("head_target_accuracy", "downstream", "questions about the target", _DOWN,
          "multiple choice with a finetuned choice head, subnetwork removed [fraction]"),
    MetricSpec("head_other_accuracy", "downstream", "other questions", _UP,
          "the same on questions that do not concern the target [fraction]"),
    MetricSpec("random_head_target_accuracy", "downstream", "target questions, random mask", _NONE,
          "the reference: as many random weights removed [fraction]"),
)  # fmt: skip
"""The other metrics, in the order of the page."""

METHODS = (
    MetricSpec("target_dnll_at_equal_control", "methods", "target dNLL at equal control dNLL", _UP,
          "target dNLL at the size that costs the controls as much as the trained mask [nats]"),
)  # fmt: skip
"""Metrics of baseline methods alone."""

METRIC_SPECS = {spec.name: spec for spec in (*HEADLINE, *EVIDENCE, *METHODS)}
"""Name -> specification."""

MEANS = (
    "sparsity", "target_ppl_ratio", "paraphrase_ppl_ratio", "control_ppl_ratio",
    "heldout_ppl_ratio", "neighborhood_ppl_ratio", "text_ppl_ratio", "forgetting",
    "choice_accuracy", "extraction_top10", "relearning_recovery", "excess_recovery",
    "head_target_accuracy",
)  # fmt: skip
"""The few metrics that experiments are compared by, in `dvc exp show` and MLflow."""

DERIVED = frozenset({"text_vs_random"})
"""Metrics computed from others for the tables; `summary.json` leaves them out."""

Metrics = dict[str, float]
"""Metric -> value."""


def format_metric(name: str, value: float | None) -> str:
    """Return a metric with the digits worth comparing: `98.06 %`, `1,770`, `1.012`; – for None."""
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


def mask_metrics(result: MaskResult) -> Metrics:
    """Return the specified and finite metrics of one mask in order, derived ones included."""
    return specified(result.metrics)


def specified(metrics: Mapping[str, float]) -> Metrics:
    """Return those of some metrics that have a specification and are finite, in order."""
    values = dict(metrics)
    text, random = metrics.get("text_ppl_ratio"), metrics.get("random_text_ppl_ratio")
    if text is not None and random:
        values["text_vs_random"] = text / random
    known = {name: float(values[name]) for name in METRIC_SPECS if values.get(name) is not None}
    return {name: value for name, value in known.items() if math.isfinite(value)}


def summarize(results: Sequence[MaskResult]) -> dict[str, Any]:
    """Return what `summary.json` holds.

    `masks` (one object per target and seed), `baselines` (one object per method), and `mean` (a
    few mean metrics of the masks). Means are geometric for PPL ratios, else arithmetic.
    """
    rows = [_without_derived(result.metrics) for result in results]
    mean = mean_metrics(rows)
    methods = dict.fromkeys(name for result in results for name in result.methods)
    return {
        "masks": [
            {"target": result.target, "seed": result.seed} | row
            for result, row in zip(results, rows, strict=True)
        ],
        "baselines": [
            {"method": name}
            | mean_metrics([_without_derived(result.methods.get(name, {})) for result in results])
            for name in methods
        ],
        "mean": {name: mean[name] for name in MEANS if name in mean},
    }


def _without_derived(metrics: Mapping[str, float]) -> Metrics:
    return {name: value for name, value in specified(metrics).items() if name not in DERIVED}


def _columns(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Return metric -> its values over the rows that have it."""
    columns = {name: [row[name] for row in rows if name in row] for name in METRIC_SPECS}
    return {name: values for name, values in columns.items() if values}


def mean_metrics(rows: Sequence[Mapping[str, float]]) -> Metrics:
    """Return each metric's mean over the rows that have it, geometric for positive PPL ratios."""
    means = {}
    for name, values in _columns(rows).items():
        if name.endswith("_ppl_ratio") and min(values) > 0:
            means[name] = math.exp(sum(math.log(value) for value in values) / len(values))
        else:
            means[name] = sum(values) / len(values)
    return means


def median_metrics(rows: Sequence[Mapping[str, float]]) -> Metrics:
    """Return the median of every metric over the rows that have it."""
    return {name: median(values) for name, values in _columns(rows).items()}


_WORST: Mapping[Better, Callable[[Sequence[float]], float]] = {
    Better.UP: min,
    Better.DOWN: max,
    Better.ONE: lambda values: max(values, key=lambda value: abs(math.log(max(value, 1e-9)))),
}


def worst_metrics(rows: Sequence[Mapping[str, float]]) -> Metrics:
    """Return the worst value of every metric that has a better side; each may be another mask's."""
    columns = _columns(rows)
    directions = {name: METRIC_SPECS[name].better for name in columns}
    return {
        name: _WORST[directions[name]](values)
        for name, values in columns.items()
        if directions[name] in _WORST
    }


def meets_threshold(value: float | None, threshold: str | None) -> bool | None:
    """Return whether a metric meets a threshold such as `<= 1.05`; None where there is none.

    A missing (None) or non-finite metric misses its threshold. ValueError if it is malformed.
    """
    if threshold is None:
        return None
    match = THRESHOLD.match(threshold)
    if match is None:
        raise ValueError(f"threshold {threshold!r} is not of the form '>= 0.98' or '<= 1.05'")
    if value is None or not math.isfinite(value):
        return False
    limit = float(match[2])
    return value >= limit if match[1] == ">=" else value <= limit


def missed_thresholds(result: MaskResult, thresholds: Mapping[str, str]) -> list[str]:
    """Return the metrics that miss their threshold, in the order of the thresholds."""
    metrics = mask_metrics(result)
    return [
        name
        for name, threshold in thresholds.items()
        if meets_threshold(metrics.get(name), threshold) is False
    ]
