"""Unlearning that changes weights, beside the mask: at the damage the mask does, in its metrics.

    python -m benchmarks.rivals [--variants NAME ...] [--targets NAME ...] [--seeds N ...]
    python -m benchmarks.rivals --tune building.n.01 [--variants NAME ...]

Every rival trains the matrices that the mask covers on the statements that the mask search has. Of
its checkpoints the last is kept whose PPL ratio on the *validation's* control facts is at most the
mask's own, or 1.02 where the mask's is less; it is measured as the stage `test` measures a mask, on
what neither has seen. `METHOD + neighborhood` keeps neighborhood facts as it does control facts, as
many per step. The mask's row is read from `data/test`. A row goes to `benchmarks/rivals.json`; rows
that are there already are kept.
`--tune` tries the values of `TRIED` on one target's validation and measures nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.frontier import recovery
from benchmarks.terms import DATA, fill_rows, opened
from knowsub.config import load_params
from knowsub.discovery.setup import SearchModel
from knowsub.evaluation.evaluate import COMPARED_TEXTS, MaskEvaluation, compute_metrics
from knowsub.evaluation.relearning import without
from knowsub.kg.facts import Statement, read_statements
from knowsub.lm.load import open_model
from knowsub.masks.ablation import applied
from knowsub.masks.mask import load_mask
from knowsub.rivals import Method, RivalOptions, Unlearned, rival_options, unlearn

FOUND, LEAST_DAMAGE, MASK = Path("benchmarks/rivals.json"), 1.02, "mask (default)"
NEAR = " + neighborhood"
VARIANTS = [MASK, *Method, *(f"{m}{NEAR}" for m in Method if m is not Method.GRADIENT_ASCENT)]
SHOWN = (
    "target_ppl_ratio", "target_accuracy", "paraphrase_ppl_ratio", "choice_accuracy",
    "control_ppl_ratio", "heldout_ppl_ratio", "neighborhood_ppl_ratio", "text_ppl_ratio",
    "forget_quality", "forget_quality_nll",
)  # fmt: skip
"""Metrics before any finetuning."""
TRIED: dict[Method, list[dict[str, float]]] = {
    Method.GRADIENT_ASCENT: [{"lr": 1e-5}, {"lr": 3e-5}],
    Method.GRADIENT_DIFFERENCE: [{"lr": 1e-5}, {"lr": 3e-5}],
    Method.NPO: [{"lr": 1e-5}, {"lr": 3e-5}, {"lr": 1e-4}],
    Method.RMU: [
        {"lr": 1e-3, "control_weight": weight, "steering": norm}
        for weight, norm in ((100.0, 20.0), (1.0, 20.0), (10.0, 80.0))
    ],
}
"""Method -> values tried; the others are `RivalOptions`' own."""


@lru_cache(maxsize=1)
def search_of(target: str) -> tuple[SearchModel, list[Statement], str]:
    """Return the model, the statements of a target's knowledge graph, and the validation text."""
    search = SearchModel(*open_model(DATA / "pretrain/model.json", "cpu"), load_params().train)
    statements = read_statements(DATA / f"verbalize/{target}.jsonl")
    return search, statements, (DATA / "prepare/text/validation.txt").read_text("utf-8")


def rivaled(target: str, seed: int, options: RivalOptions) -> Unlearned:
    """Return what a method makes of the model within the damage that the mask does."""
    done = json.loads((DATA / f"train/{target}-{seed}/training.json").read_text("utf-8"))
    limit = max(LEAST_DAMAGE, float(done["chosen"]["control_ratio"]))
    search, statements, text = search_of(target)
    return unlearn(search, statements, text, replace(options, max_control_ratio=limit), seed)


@lru_cache(maxsize=1)
def evaluation_of(target: str) -> MaskEvaluation:
    """Return the evaluation of a target; the mask says which matrices count as maskable."""
    options = replace(load_params().test, forgetting=False, specificity=False, paraphrase=False)
    mask = load_mask(DATA / f"train/{target}-0/mask.safetensors")
    return opened(target, mask, read_statements(DATA / f"verbalize/{target}.jsonl"), options)


def tested(target: str, seed: int) -> dict[str, Any]:
    """Return what the stage `test` wrote about the mask of the default."""
    record: dict[str, Any] = json.loads((DATA / f"test/{target}-{seed}/figures.json").read_text())
    return record


def measured(evaluation: MaskEvaluation, found: Unlearned) -> dict[str, float]:
    """Return the metrics of other weights, before any finetuning."""
    context, options = evaluation.context, evaluation.options
    with applied(context.encoder.model, found.weights), torch.no_grad():
        metrics, _ = compute_metrics(context, evaluation.references, options, COMPARED_TEXTS)
    return {name: metrics.values[name] for name in SHOWN if name in metrics.values}


def changed_model(evaluation: MaskEvaluation, found: Unlearned) -> PreTrainedModel:
    """Return a copy of the original model with other weights."""
    changed = without(evaluation.context, None)
    with torch.no_grad():
        for name, tensor in found.weights.items():
            changed.get_parameter(name).copy_(tensor)
    return changed


def row_of(variant: str, target: str, seed: int) -> dict[str, float]:
    """Return the metrics of the mask or of a rival, of one target and seed."""
    if variant == MASK:
        figures: dict[str, float] = tested(target, seed)["figures"]
        return {
            name: value
            for name, value in figures.items()
            if name in SHOWN or name.startswith(("retain_", "excess_recovery", "steps_to_half"))
        }
    options = rival_options(variant.removesuffix(NEAR))
    if variant.endswith(NEAR):
        options = replace(options, neighborhood_batch=options.control_batch)
    found = rivaled(target, seed, options)
    row = {"steps": float(found.step)}
    row |= {f"validation_{name}": value for name, value in found.validation.items()}
    evaluation = evaluation_of(target)
    row |= measured(evaluation, found)
    retain = evaluation.references.retain
    if retain is None:
        raise SystemExit(evaluation.references.skipped["forget_quality"])
    return row | recovery(evaluation, retain.model, changed_model(evaluation, found))


def tune() -> None:
    """Print the validation of each method's tries on one target, seed 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tune", required=True)
    parser.add_argument("--variants", nargs="*", choices=list(Method), default=list(Method))
    given = parser.parse_args()
    torch.set_num_threads(1)
    for method in map(Method, given.variants):
        for values in TRIED[method]:
            found = rivaled(given.tune, 0, rival_options(method, **values))
            print(method, values, found.step, found.validation, flush=True)


if __name__ == "__main__":
    if any(argument.startswith("--tune") for argument in sys.argv):
        tune()
    else:
        fill_rows(FOUND, VARIANTS, row_of, __doc__, seeds=(0,))
