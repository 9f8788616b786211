"""What each term of the objective, and how gates are sampled, contributes on the embedded default.

    python -m benchmarks.terms [--variants NAME ...] [--targets NAME ...] [--seeds N ...]

Searches the model of `data/pretrain` once per variant, target and seed with `params.yaml` changed
in nothing but what `VARIANTS` says, scores the mask on the facts and the text that no search reads,
and adds a row to `benchmarks/ablations.json`. Rows that are there already are kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from knowsub.artifacts import atomic_write
from knowsub.config import load_params
from knowsub.discovery.setup import SearchModel, build_search
from knowsub.discovery.trainer import find_subnetwork
from knowsub.evaluation.evaluate import MaskEvaluation, compare_masks
from knowsub.evaluation.options import TestOptions
from knowsub.evaluation.robustness import sufficiency
from knowsub.kg.facts import Statement, read_statements
from knowsub.lm.load import open_model, read_manifest
from knowsub.masks.mask import Mask, load_mask

DATA, FOUND = Path("data"), Path("benchmarks/ablations.json")
VARIANTS: dict[str, list[str]] = {
    "all terms": [],
    "no suppression": ["train.suppression_weight=0.0"],
    "no control facts": ["train.control_weight=0.0"],
    "no neighborhood": ["train.neighborhood_weight=0.0"],
    "no control text": ["train.text_weight=0.0"],
    "no sparsity": [
        "train.sparsity_weight_start=0.0", "train.sparsity_weight_end=0.0",
        "train.target_density=0.0", "train.max_density=1.0",
    ],
    "expression on": ["train.expression_weight=1.0"],
    "expression only": [
        "train.suppression_weight=0.0", "train.control_weight=0.0",
        "train.neighborhood_weight=0.0", "train.text_weight=0.0", "train.expression_weight=1.0",
    ],
    "a sample per term": ["train.samples=per_term"],
    "initial probability .45": ["train.init_prob=0.45"],
    "sparsity weight 2 to 3": ["train.sparsity_weight_start=2.0", "train.sparsity_weight_end=3.0"],
    "noise to the end": ["train.noise_final=1.0"],
    "moments in 8 bits": ["train.gate_memory=8bit"],
}  # fmt: skip
"""Name -> what is changed of `params.yaml`; three take one of the paper's values each."""
SHOWN = (
    "sparsity", "target_ppl_ratio", "paraphrase_ppl_ratio", "heldout_ppl_ratio",
    "neighborhood_ppl_ratio", "text_ppl_ratio", "forgetting",
)  # fmt: skip
"""Metrics of the row, all but one of the remaining model; `alone_target_ppl` is of the mask."""


Find = Callable[[str, int, list[str], list[Statement]], Mask]
"""Target, seed, what a variant changes, statements of the target's knowledge graph -> its mask."""
Measure = Callable[[MaskEvaluation, Mask], dict[str, float]]
"""Evaluation of a target, mask -> its metrics."""


def searched(target: str, seed: int, overrides: list[str], statements: list[Statement]) -> Mask:
    """Return the mask of one search; that of the pipeline where it has made the same one."""
    done, options = DATA / f"train/{target}-{seed}/mask.safetensors", load_params(overrides).train
    if not overrides and done.is_file():
        return load_mask(done)
    manifest = DATA / "pretrain/model.json"
    unseen = read_statements(DATA / f"verbalize/unseen/{target}.jsonl")
    train, validation = (
        (DATA / f"prepare/text/{name}.txt").read_text("utf-8") for name in ("train", "validation")
    )
    model = SearchModel(*open_model(manifest, "cpu"), options)
    trainer, validate = build_search(model, [*statements, *unseen], train, validation, seed)
    result = find_subnetwork(trainer, validate)
    meta = {"options": json.dumps(asdict(options), sort_keys=True)}
    return trainer.gates.to_mask(result.bits, read_manifest(manifest)["fingerprint"], meta)


def opened(
    target: str, mask: Mask, statements: list[Statement], given: TestOptions
) -> MaskEvaluation:
    """Return the evaluation of a mask on what no search reads, without the costly groups.

    `given.forget_quality` says whether the retain model is asked too.
    """
    options = replace(
        given, logit_lens=False, cross_target=False, quantization=False, connectivity=False
    )
    model, tokenizer = open_model(DATA / "pretrain/model.json", "cpu")
    retain = open_model(DATA / "retain/model.json", "cpu")[0] if given.forget_quality else None
    texts = {"text": (DATA / "prepare/text/test.txt").read_text("utf-8")}
    own = {target: statements}
    return MaskEvaluation(model, tokenizer, mask, target, own, texts, options, retain)


def scored(evaluation: MaskEvaluation, mask: Mask) -> dict[str, float]:
    """Return the metrics of the model without a mask's weights, and of the mask alone."""
    context, options = evaluation.context, evaluation.options
    with torch.no_grad():
        of_mask = compare_masks(context, {"mask": mask}, options, evaluation.references)["mask"]
        alone = sufficiency(context, mask).values
    return {name: of_mask.values[name] for name in SHOWN if name in of_mask.values} | alone


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of an earlier call."""
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.is_file() else []
    return rows


def fill(
    path: Path,
    variants: Mapping[str, list[str]],
    measure: Measure,
    description: str | None,
    find: Find = searched,
    costly: bool = False,
) -> None:
    """Search and measure what the command line asks for and a file of rows lacks, row by row.

    `costly`: whether the measure needs multiple choice and the retain model.
    """
    options = replace(load_params().test, multiple_choice=costly, forget_quality=costly)

    def row(variant: str, target: str, seed: int) -> dict[str, float]:
        statements = read_statements(DATA / f"verbalize/{target}.jsonl")
        mask = find(target, seed, variants[variant], statements)
        return measure(opened(target, mask, statements, options), mask)

    fill_rows(path, list(variants), row, description)


def fill_rows(
    path: Path,
    variants: Sequence[str],
    make: Callable[[str, str, int], dict[str, float]],
    description: str | None,
    seeds: Sequence[int] = (0, 1, 2),
) -> None:
    """Make the rows that the command line asks for and a file lacks, of variant, target, seed."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--variants", nargs="*", choices=variants, default=variants)
    parser.add_argument("--targets", nargs="*", default=load_params().targets)
    parser.add_argument("--seeds", nargs="*", type=int, default=list(seeds))
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    rows = read_rows(path)
    done = {(row["variant"], row["target"], row["seed"]) for row in rows}
    wanted = [(v, t, s) for s in given.seeds for t in given.targets for v in given.variants]
    for variant, target, seed in wanted:
        if (variant, target, seed) not in done:
            row = make(variant, target, seed)
            rows.append({"variant": variant, "target": target, "seed": seed, **row})
            atomic_write(path, (json.dumps({"rows": rows}, indent=1) + "\n").encode())
            print(rows[-1], flush=True)


if __name__ == "__main__":
    fill(FOUND, VARIANTS, scored, __doc__)
