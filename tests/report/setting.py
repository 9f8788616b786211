"""A folder of stage outputs with plausible metrics, drawn from a seed, and its report."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from knowsub.analysis.overlap import analyze_overlap
from knowsub.analysis.pipeline import MaskFile, analyze_structure
from knowsub.architectures import maskable_matrices
from knowsub.masks.mask import Mask, save_mask
from knowsub.report.collect import MaskResult, Row, read_analysis
from knowsub.report.options import ReportOptions
from knowsub.report.page import Provenance, Report

TARGETS = ("building.n.01", "location.n.01", "communication.n.02")
SEEDS = (0, 1)
THRESHOLDS = {"sparsity": ">= 0.98", "heldout_ppl_ratio": "<= 1.08"}
METHODS = {"random": 0.01, "magnitude": 1.2, "snip": 1.4, "wanda": 1.5, "knowledge_neurons": 0.9}
WORDS = ["temple", "house", "place", "region", "speech", "sign", "church", "hotel", "shelter",
         "country"]  # fmt: skip


def write_outputs(
    data: Path, targets: Sequence[str] = TARGETS, seeds: Sequence[int] = SEEDS, width: int = 16
) -> None:
    """Write every file that the report reads.

    Args:
        data: Folder to write to.
        targets: Targets.
        seeds: Seeds.
        width: Hidden size of the model whose masks are drawn at random.
    """
    rng = np.random.default_rng(0)
    for target in targets:
        for seed in seeds:
            name = f"{target}-{seed}"
            cross = {other: 0.3 for other in targets if other != target}
            tested = _tested(rng) | {"cross": cross}
            tested["figures"]["target_dnll"] = 7.5
            write_json(data / f"test/{name}/figures.json", tested)
            lines = "".join(json.dumps(row) + "\n" for row in _facts(rng, target))
            (data / f"test/{name}/facts.jsonl").write_text(lines)
            write_json(
                data / f"train/{name}/training.json", {"chosen": {"step": 160}, "gates": GATES}
            )
            write_csv(data / f"train/{name}/curve.csv", list(_curve(rng)))
            write_json(data / f"finetune/{name}/results.json", _finetuned())
            write_csv(data / f"finetune/{name}/curves.csv", list(_recovery(rng)))
    model, files = _write_masks(data, targets, seeds, width)
    rows, summaries = analyze_structure(files, model, "fingerprint", maskable_matrices(model))
    write_json(data / "analyze/structure.json", {"masks": rows, "alpha": 0.05})
    write_json(data / "analyze/overlap.json", analyze_overlap(summaries))
    write_json(data / "analyze/ablations.json", _ablations(rng, targets, seeds))


def make_report(
    data: Path, results: Sequence[MaskResult], compared: Mapping[str, Sequence[Row]] | None = None
) -> Report:
    """Return a report with small figures."""
    options = ReportOptions(title="T", max_control_facts=5, dpi=60, thresholds=THRESHOLDS)
    origin = Provenance("embedded", "f" * 64, "seeds: [0]\n", "c" * 40, {"python": "3"}, 0.95)
    return Report(results, read_analysis(data), compared or {}, options, origin)


def write_json(path: Path, value: object) -> None:
    """Write JSON, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as CSV, cells that a row lacks left empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


GATES = {"p_le_0.01": 0.95, "p_le_0.2": 0.97, "undecided": 0.001, "p_ge_0.8": 0.02,
         "p_ge_0.99": 0.01}  # fmt: skip
CHANGES = {"target": {"rank": [90.0, 3.0, 800.0], "log_probability": [-7.1, -9.0, -3.0]}}
RELEARNING = {
    "target full 0.0005": {
        model: [{"step": step, "accuracy": value, "nll": 1.0} for step, value in points]
        for model, points in {
            "original": [(0, 1.0), (60, 0.9)],
            "remaining": [(0, 0.0), (60, 0.7)],
            "retain": [(0, 0.1), (60, 0.2)],
        }.items()
    }
}


def _tested(rng: np.random.Generator) -> dict[str, Any]:
    target = float(np.exp(rng.uniform(6.5, 9)))
    metrics = {
        "sparsity": rng.uniform(0.9795, 0.985), "removed_share": 0.0053,
        "target_ppl_ratio": target, "paraphrase_ppl_ratio": target * 0.7,
        "control_ppl_ratio": rng.uniform(1.005, 1.03),
        "heldout_ppl_ratio": rng.uniform(1.01, 1.07), "text_ppl_ratio": 1.07,
        "random_target_ppl_ratio": rng.uniform(1.0, 1.02), "random_text_ppl_ratio": 1.09,
        "all_removed_target_ppl_ratio": 6374.2, "target_median_rank": rng.uniform(40, 200),
        "random_object_rank": 233.0, "target_accuracy": 0.025, "forgetting": 0.98,
        "paraphrase_forgetting": 0.96, "choice_accuracy": 0.21, "choice_reference": 0.13,
        "subject_identifiability": 0.85, "neighborhood_ppl_ratio": 1.6,
        "neighborhood_accuracy": 0.91, "extraction_top10": 0.05, "random_p": 1 / 101,
        "relearning_recovery": 0.34, "int8_forgetting": 0.98, "int4_forgetting": 0.95,
        "logit_lens_hit": 0.1,
    }  # fmt: skip
    interval = {"forgetting": [0.96, 0.99], "target_ppl_ratio": [target * 0.6, target * 1.5]}
    methods = {
        name: {"sparsity": 0.98, "target_ppl_ratio": float(np.exp(size)),
               "heldout_ppl_ratio": 1 + size / 3, "choice_accuracy": 0.9}
        for name, size in METHODS.items()
    }  # fmt: skip
    beaten = {name: {"pvalue": 0.001, "effect": 6.0} for name in METHODS}
    return {"figures": metrics, "intervals": interval, "methods": methods,
            "against_methods": beaten, "relearning": RELEARNING, "changes": CHANGES,
            "skipped": {"forgetting": "2 never known"}}  # fmt: skip


def _facts(rng: np.random.Generator, target: str) -> Iterator[dict[str, Any]]:
    stem = target.split(".")[0]
    shapes = [
        ("target", "train", 12, 7.0),
        ("target", "test", 12, 6.0),
        ("control_heldout", "train", 30, 0.05),
        ("neighborhood_heldout", "train", 8, 0.5),
    ]
    for split, role, number, loss in shapes:
        for index in range(number):
            words = WORDS[index % len(WORDS)]
            for view in ("original", "remaining", "random"):
                nll = abs(rng.normal(loss if view == "remaining" else 0.01, 0.3 * loss**0.5))
                row = {
                    "fact": f"{stem}_{split}_{index}.n.01|hypernym|{words}.n.01",
                    "subject": f"{stem} {split.split('_')[0]} {index}",
                    "object": words,
                    "split": split,
                    "role": role,
                    "view": view,
                    "nll": nll,
                    "rank": float(round(40 * nll)),
                    "correct": float(nll < 0.5),
                    "prompts": 4,
                }
                if (split, role) == ("target", "train") and view != "random":
                    row["prompt"] = f"a {row['subject']} is a kind of"
                    row["top5"] = [[f" {word}", 0.2] for word in WORDS[:4]] + [["</script>", 0.1]]
                yield row  # fmt: skip


def _curve(rng: np.random.Generator) -> Iterator[dict[str, float]]:
    for step in range(1, 201):
        row = {"step": step, "target": 10 - step / 25, "density": 0.1 * 0.99**step}
        if step % 20 == 0:
            row["validation_target_nll"] = 8 * (1 - np.exp(-step / 40)) + rng.normal(0, 0.2)
            row["validation_control_ratio"] = 1.02 + 0.3 * np.exp(-step / 50)
            row["validation_density"] = 0.02 + 0.1 * np.exp(-step / 30)
        yield row


def _recovery(rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    ends = {"original": 1.0, "remaining": 0.3, "random": 0.98}
    for adaptation, gain in {"head": 0.05, "lora": 0.3, "full": 0.5}.items():
        for model, end in ends.items():
            for step in range(0, 101, 20):
                more = gain * (1 - end) * (1 - np.exp(-step / 40))
                for split in ("target", "other"):
                    accuracy = min(1.0, end + more + abs(rng.normal(0, 0.01)))
                    yield {"adaptation": adaptation, "model": model, "seed": 0, "step": step,
                           "split": split, "accuracy": accuracy, "loss": 1.0}  # fmt: skip


def _finetuned() -> dict[str, Any]:
    scores = [
        {"adaptation": adaptation, "model": model, "group": group, "questions": 40, "repeats": 2,
         "accuracy": value, "low": value - 0.05, "high": value + 0.02, "filtered": value}
        for adaptation in ("none", "head", "full")
        for model, value in (("original", 1.0), ("remaining", 0.4), ("random", 0.98))
        for group in ("target", "neighborhood", "other")
    ]  # fmt: skip
    metrics = {"head_target_accuracy": 0.33, "head_other_accuracy": 0.99,
               "random_head_target_accuracy": 0.98}  # fmt: skip
    return {"metrics": metrics, "intervals": {}, "scores": scores, "questions": {"chance": 0.2}}


def _write_masks(
    data: Path, targets: Sequence[str], seeds: Sequence[int], width: int
) -> tuple[GPT2LMHeadModel, list[MaskFile]]:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(n_layer=4, n_embd=width, n_head=4, vocab_size=64, n_positions=16,
                   bos_token_id=0, eos_token_id=0)
    )  # fmt: skip
    files = []
    for target in targets:
        core = {m.name: torch.rand(m.shape) < 0.01 for m in maskable_matrices(model)}
        for seed in seeds:
            bits = {name: bit | (torch.rand(bit.shape) < 0.01) for name, bit in core.items()}
            bits["blocks.3.mlp_in"][:, :4] |= torch.rand(width, 4) < 0.3
            path = data / f"train/{target}-{seed}/mask.safetensors"
            save_mask(Mask(bits, "fingerprint", {}), path)
            files.append(MaskFile(target, seed, "trained", path))
    return model, files


def _ablations(
    rng: np.random.Generator, targets: Sequence[str], seeds: Sequence[int]
) -> dict[str, Any]:
    def row(name: str, lost: float, harm: float, **more: object) -> dict[str, Any]:
        return {**more, "name": name, "weights": 7800, "target_dnll": lost,
                "control_dnll": harm}  # fmt: skip

    parts = [
        row(name, float(rng.uniform(1, 8)), 0.02, target=target, seed=seed)
        for target in targets for seed in seeds
        for name in ("whole", "block 2", "block 3", "q", "mlp_out")
    ]  # fmt: skip
    combined = [row(name, 8.0, 0.05, target=target) for target in targets
                for name in ("union", "shared core", "random part as large")]  # fmt: skip
    tradeoff = [
        row(f"{share:g}", share * (size + 0.1), share * size / 4, target=target, method=name)
        for target in targets
        for name, size in {"trained": 8.0, **METHODS}.items()
        for share in (0.25, 0.5, 0.75, 1.0)
    ]  # fmt: skip
    for point in tradeoff:
        if point["method"] == "trained":
            point["control_dnll"] = 0.03 * float(point["name"])
    return {"parts": parts, "combined": combined, "tradeoff": tradeoff}
