"""Whether what is removed comes back, against what removing it costs: all methods, one picture.

    python -m benchmarks.frontier [--variants NAME ...] [--targets NAME ...] [--seeds N ...]

Searches as `benchmarks.terms` does, or takes the mask of another method from `data/baseline`;
removes it, finetunes what remains as the stage `test` does, and compares it with the model that was
never taught the target's facts. A row goes to `benchmarks/frontier.json`; rows that are there
already are kept. docs/pictures/frontier.png and the table of docs/relearning.md are drawn from all.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
import yaml
from scipy.stats import binomtest
from transformers import PreTrainedModel

from benchmarks.terms import DATA, fill, searched
from knowsub.evaluation.evaluate import MaskEvaluation, compare_masks
from knowsub.evaluation.metrics import ppl_ratio
from knowsub.evaluation.options import RelearningData
from knowsub.evaluation.relearning import (
    Curve,
    Finetuning,
    Lesson,
    build_lessons,
    excess,
    relearning_curve,
    without,
)
from knowsub.evaluation.retain import RetainReference
from knowsub.hypotheses import hierarchical_bootstrap
from knowsub.kg.facts import Fact, Statement
from knowsub.masks.mask import Mask, load_mask
from knowsub.masks.units import matched_random_masks

FOUND, RANDOM_MASKS = Path("benchmarks/frontier.json"), 2
PRESET = yaml.safe_load(Path("presets/erase.yaml").read_text(encoding="utf-8"))["train"]
ERASE = [f"train.{key}={value}" for key, value in PRESET.items()]
"""The preset `erase`, as far as it is about the search."""
METHOD = "method="
VARIANTS: dict[str, list[str]] = {
    "default": [],
    "erase": ERASE,
    "uniform": ["train.suppression=uniform"],
    "prior": ["train.suppression=prior"],
    "unlikelihood": ["train.suppression=unlikelihood"],
    "zscore_label": ["train.suppression=zscore_label"],
    "snip": [f"{METHOD}snip"],
    "taylor": [f"{METHOD}taylor"],
    "wanda": [f"{METHOD}wanda"],
    "magnitude": [f"{METHOD}magnitude"],
    "knowledge neurons": [f"{METHOD}knowledge_neurons"],
    "random": [f"{METHOD}random"],
}
"""Name -> what is changed of `params.yaml`, or the method of the stage `baseline` to compare."""
SHOWN = (
    "sparsity", "target_ppl_ratio", "target_accuracy", "paraphrase_ppl_ratio", "choice_accuracy",
    "control_ppl_ratio", "heldout_ppl_ratio", "neighborhood_ppl_ratio", "text_ppl_ratio",
    "forget_quality", "forget_quality_nll",
)  # fmt: skip
"""Metrics of the remaining model before any finetuning."""


def found(target: str, seed: int, changes: list[str], statements: list[Statement]) -> Mask:
    """Return the mask of a method, as the stage `baseline` wrote it, or of a search."""
    if changes and changes[0].startswith(METHOD):
        name = changes[0].removeprefix(METHOD)
        return load_mask(DATA / f"baseline/{target}-{seed}/{name}.safetensors")
    return searched(target, seed, changes, statements)


Lessons = Sequence[Lesson]
CURVES: dict[tuple[tuple[Fact, ...], RelearningData], dict[str, Curve]] = {}
"""Target facts and data -> curves of the models that no mask changes."""


def recovery(
    evaluation: MaskEvaluation, retain: PreTrainedModel, remaining: PreTrainedModel
) -> dict[str, float]:
    """Return `excess_recovery` and its kin, after target facts and after control facts alone."""
    context, options, metrics = evaluation.context, evaluation.options, dict[str, float]()
    tuning = Finetuning(options.relearning_rates[0], options.seed)
    for data in (RelearningData.TARGET, RelearningData.CONTROL):
        lessons, key = build_lessons(context, options, data), (context.sets["target"].facts, data)

        def curve(model: PreTrainedModel, lessons: Lessons = lessons) -> Curve:
            return relearning_curve(model, lessons, tuning, options.relearning_checkpoints)

        if key not in CURVES:
            CURVES[key] = {"original": curve(context.encoder.model), "retain": curve(retain)}
        curves = CURVES[key] | {"remaining": curve(remaining)}
        suffix = "" if data is RelearningData.TARGET else f"_{data.value}"
        metrics |= excess(curves, suffix).values
    return metrics


def beside_retain(reference: RetainReference) -> dict[str, float]:
    """Return the retain model's accuracy and choice, each with its 95 % interval over facts."""
    values = dict[str, float]()
    for name in ("target_accuracy", "choice_accuracy"):
        low, high = interval(reference.metrics.per_fact[f"retain_{name}"].values)
        values |= {
            f"retain_{name}": reference.metrics.values[f"retain_{name}"],
            f"retain_{name}_low": low,
            f"retain_{name}_high": high,
        }
    return values


def interval(shares: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the 95 % interval over facts of a mean share.

    The bootstrap's has no width where every fact has 0, or every fact 1, as if a further one had to
    have the same; there it is the exact one of a proportion (Clopper and Pearson 1934).
    """
    if set(shares) in ({0.0}, {1.0}):
        exact = binomtest(round(sum(shares)), len(shares)).proportion_ci(method="exact")
        return float(exact.low), float(exact.high)
    ends = hierarchical_bootstrap([shares])
    return ends.low, ends.high


def random_text(evaluation: MaskEvaluation, mask: Mask) -> float:
    """Return the mean PPL ratio on text after random removals of as many weights per matrix."""
    context, text = evaluation.context, evaluation.context.original.texts["text"]
    generator = torch.Generator().manual_seed(evaluation.options.seed)
    ratios = []
    for random in islice(
        matched_random_masks(mask, context.matrices, RANDOM_MASKS, generator), RANDOM_MASKS
    ):
        with context.ablated(random), torch.no_grad():
            ratios.append(ppl_ratio(context.score((), ("text",)).texts["text"], text))
    return sum(ratios) / len(ratios)


def measured(evaluation: MaskEvaluation, mask: Mask) -> dict[str, float]:
    """Return what a mask removes, damages, and lets come back."""
    context, reference = evaluation.context, evaluation.references.retain
    if reference is None:
        raise SystemExit(evaluation.references.skipped["forget_quality"])
    with torch.no_grad():
        of_mask = compare_masks(context, {"mask": mask}, evaluation.options, evaluation.references)[
            "mask"
        ]
    row = {name: of_mask.values[name] for name in SHOWN}
    row["text_vs_random"] = row["text_ppl_ratio"] / random_text(evaluation, mask)
    return (
        row
        | beside_retain(reference)
        | recovery(evaluation, reference.model, without(evaluation.context, mask))
    )


if __name__ == "__main__":
    fill(FOUND, VARIANTS, measured, __doc__, found, costly=True)
