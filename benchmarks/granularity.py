"""Which granularity removes the facts, at what cost: one gate per weight, neuron, head or matrix.

    python -m benchmarks.granularity [--variants NAME ...] [--targets NAME ...] [--seeds N ...]

Searches as `benchmarks.terms` does, and sets beside every mask the random removal of as many whole
units (`matched_random_masks`). A row goes to `benchmarks/granularity.json`; rows that are there
already are kept.
"""

from __future__ import annotations

import argparse
import json
import math
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks.terms import DATA, opened, read_rows, scored, searched
from knowsub.artifacts import atomic_write
from knowsub.config import load_params
from knowsub.evaluation.evaluate import MaskEvaluation
from knowsub.evaluation.metrics import ppl_ratio
from knowsub.hypotheses import permutation_p
from knowsub.kg.facts import read_statements
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


def beside_random(evaluation: MaskEvaluation, mask: Mask) -> dict[str, float]:
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


def main() -> None:
    """Search what is missing, one row after the other."""
    params = load_params()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--targets", nargs="*", default=params.targets)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    rows = read_rows(FOUND)
    done = {(row["variant"], row["target"], row["seed"]) for row in rows}
    wanted = [(v, t, s) for s in given.seeds for t in given.targets for v in given.variants]
    for variant, target, seed in wanted:
        if (variant, target, seed) not in done:
            statements = read_statements(DATA / f"verbalize/{target}.jsonl")
            mask = searched(target, seed, VARIANTS[variant], statements)
            evaluation = opened(target, mask, statements, params.test)
            row: dict[str, Any] = {"variant": variant, "target": target, "seed": seed}
            row |= scored(evaluation, mask) | beside_random(evaluation, mask)
            rows.append(row)
            atomic_write(FOUND, (json.dumps({"rows": rows}, indent=1) + "\n").encode())
            print(row, flush=True)


if __name__ == "__main__":
    main()
