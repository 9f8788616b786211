"""Where the critical subnetworks lie, how alike they are, and what their parts do.

Reads: data/pretrain/model.json, data/train/<target>-<seed>/mask.safetensors,
    data/baseline/<target>-<seed>/{<method>, sizes/<method>-<factor>}.safetensors,
    data/verbalize/<target>.jsonl
Writes: data/analyze/structure.json, overlap.json, function.json,
    combined/<target>-<union, shared_core, floral, first_alone>.safetensors
"""

from __future__ import annotations

from pathlib import Path

from knowsub.config import load_params, stage_main, torch_device

DATA, OUT = Path("data"), Path("data/analyze")


def main() -> str:
    """Study all masks that the parameters ask for."""
    params = load_params()
    device = torch_device(params.machine)
    import torch

    from knowsub.analysis import pipeline as study
    from knowsub.analysis.ablations import open_ablation_context
    from knowsub.analysis.pipeline import Ablations
    from knowsub.architectures import block_count, maskable_matrices
    from knowsub.kg.facts import read_statements
    from knowsub.lm.load import open_model, read_manifest
    from knowsub.tracking import stage_run

    options, pins = params.analyze, DATA / "pretrain/model.json"
    others = params.baseline if options.baselines else None
    methods, factors = (others.methods, others.size_multipliers) if others else ([], [])
    files = study.mask_files(DATA, params.targets, params.seeds, methods)
    with stage_run("analyze", params) as run, torch.no_grad():
        (model, tokenizer), identity = open_model(pins, device), read_manifest(pins)["fingerprint"]
        blocks = params.train.block_range(block_count(model))
        places = maskable_matrices(model, blocks, params.train.modules)
        rows, profiles = study.analyze_structure(files, model, identity, places)
        found = {
            "structure": {"masks": rows, "alpha": options.alpha},
            "overlap": study.analyze_overlap(profiles),
        }
        if options.ablations:
            statements = {t: read_statements(DATA / f"verbalize/{t}.jsonl") for t in params.targets}
            bench, sets = open_ablation_context(
                model, tokenizer, places, statements, options.max_facts
            )
            chance = torch.Generator().manual_seed(options.seed)
            removals = Ablations(
                bench, identity, places, sets, options.tradeoff_sizes, factors, chance
            )
            found["function"] = removals.study(files)
        combined = study.write_combinations(OUT / "combined", files, identity)
        for path in (*study.write_analysis(OUT, found), *combined):
            run.artifact(path)
        run.metrics({"masks": len(rows), "pairs": len(found["overlap"]["pairs"])})
    return f"{len(rows)} masks, {len(found['overlap']['pairs'])} pairs"


if __name__ == "__main__":
    stage_main(main)
