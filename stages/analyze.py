"""Where the critical subnetworks lie, how alike they are, and what their parts do.

Reads: data/pretrain/model.json, data/verbalize/<target>.jsonl, data/prepare/text/test.txt,
    data/train/*/mask.safetensors, data/baseline/<target>-<seed>/{,sizes/}<method>*.safetensors
Writes: data/analyze/structure.json, overlap.json, ablations.json,
    combined/<target>-<union, shared_core, floral, first_only>.safetensors
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from knowsub.config import load_params, stage_main, torch_device

DATA, OUT = Path("data"), Path("data/analyze")
TEXT = DATA / "prepare/text/test.txt"


def main() -> str:
    """Analyze all masks that the parameters ask for."""
    params = load_params()
    device = torch_device(params.machine)
    import torch

    from knowsub.analysis import pipeline
    from knowsub.analysis.ablations import open_ablation_context
    from knowsub.analysis.overlap import analyze_overlap
    from knowsub.kg.facts import read_statements
    from knowsub.lm.load import open_model, read_manifest
    from knowsub.masks.ablation import chosen_matrices
    from knowsub.tracking import stage_run

    options, manifest = params.analyze, DATA / "pretrain/model.json"
    methods = params.baseline.methods if options.baselines else []
    files = pipeline.mask_files(DATA, params.targets, params.seeds, methods)
    with stage_run("analyze", params) as run, torch.no_grad():
        model, tokenizer = open_model(manifest, device)
        fingerprint = read_manifest(manifest)["fingerprint"]
        train = params.train
        matrices = chosen_matrices(model, train.block_range, train.modules, train.embeddings)
        rows, summaries = pipeline.analyze_structure(files, model, fingerprint, matrices)
        results: dict[str, Any] = {"structure": {"masks": rows, "alpha": options.alpha}}
        results["overlap"] = analyze_overlap(summaries)
        if options.ablations:
            statements = {t: read_statements(DATA / f"verbalize/{t}.jsonl") for t in params.targets}
            read = options.max_facts, TEXT.read_text("utf-8"), params.train.block_tokens
            context = open_ablation_context(model, tokenizer, matrices, statements, *read)
            results["ablations"] = pipeline.Ablations(
                context, fingerprint, options, params.baseline.size_multipliers
            ).run(files)
        combined = pipeline.write_combinations(OUT / "combined", files, fingerprint)
        for path in (*pipeline.write_analysis(OUT, results), *combined):
            run.artifact(path)
        run.metrics({"masks": len(rows), "pairs": len(results["overlap"]["pairs"])})
    return f"{len(rows)} masks, {len(results['overlap']['pairs'])} pairs"


if __name__ == "__main__":
    stage_main(main)
