"""Which granularity removes the facts, at what cost: one gate per weight, neuron, head or matrix.

    python -m benchmarks.granularity [--variants NAME ...] [--targets NAME ...] [--seeds N ...]

Searches as `benchmarks.terms` does, and compares every mask with the random removal of as many
whole units (`matched_random_masks`). A row goes to `benchmarks/granularity.json`; rows that are
there already are kept.
"""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path

import torch

from benchmarks.terms import fill, scored
from knowsub.evaluation.evaluate import MaskEvaluation
from knowsub.evaluation.metrics import ppl_ratio
from knowsub.hypotheses import permutation_p
from knowsub.masks.mask import Mask
from knowsub.masks.units import matched_random_masks

FOUND, RANDOM_MASKS = Path("benchmarks/granularity.json"), 20
FREE = ["train.target_density=0.0", "train.max_density=1.0"]
"""Neither steered nor trimmed: the objective alone decides how many units are removed."""
ATTENTION_ALONE = ["train.modules=[q,k,v,output]"]
"""A head has no weights in the MLP."""
VARIANTS: dict[str, list[str]] = {
    "weight": [],
    "input neuron": ["train.granularity=input"],
    "output neuron": ["train.granularity=output"],
    "weight, free": FREE,
    "input neuron, free": ["train.granularity=input", *FREE],
    "output neuron, free": ["train.granularity=output", *FREE],
    "head, free": ["train.granularity=head", *ATTENTION_ALONE, *FREE],
    "matrix, free": ["train.granularity=matrix", *FREE],
}
"""Name -> what is changed of `params.yaml`; 2 % of the few heads or matrices would be none."""


def random_units(evaluation: MaskEvaluation, mask: Mask) -> dict[str, float]:
    """Return what as many random whole units do: geometric means of PPL ratios, p on the target.

    `random_p`: see `permutation_p`; `random_highest_target_ppl_ratio` is of the worst of them.
    """
    context, logs = evaluation.context, dict[str, list[float]]()
    sets = ("target", "heldout", "neighborhood")
    generator = torch.Generator().manual_seed(evaluation.options.seed)
    randoms = matched_random_masks(mask, context.matrices, RANDOM_MASKS, generator)
    with torch.no_grad():
        for random in islice(randoms, RANDOM_MASKS):
            with context.ablated(random):
                now = context.score(sets=sets)
            scores = [*now.sets.items(), *now.texts.items()]
            originals = {**context.original.sets, **context.original.texts}
            for name, values in scores:
                logs.setdefault(name, []).append(math.log(ppl_ratio(values, originals[name])))
        with context.ablated(mask):
            own = ppl_ratio(context.score(("target",), ()).sets["target"], originals["target"])
    means = {f"random_{name}_ppl_ratio": math.exp(sum(v) / len(v)) for name, v in logs.items()}
    highest = math.exp(max(logs["target"]))
    p = permutation_p(math.log(own), logs["target"])
    return means | {"random_highest_target_ppl_ratio": highest, "random_p": p}


def measured(evaluation: MaskEvaluation, mask: Mask) -> dict[str, float]:
    """Return the metrics of a mask, and those of as many random whole units."""
    return scored(evaluation, mask) | random_units(evaluation, mask)


if __name__ == "__main__":
    fill(FOUND, VARIANTS, measured, __doc__)
