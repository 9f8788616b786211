"""The evidence for one mask: what is gone, that only it is gone, and that the mask is why.

Reads: data/{pretrain,retain}/model.json, data/verbalize/<every target>.jsonl,
    data/prepare/text/{test,other}.txt, data/train/<target>-<seed>/mask.safetensors,
    data/baseline/<target>-<seed>/
Writes: data/test/<target>-<seed>/figures.json and facts.jsonl
"""

from __future__ import annotations

from pathlib import Path

from knowsub.config import load_params, stage_main, torch_device

DATA, RETAIN = Path("data"), Path("data/retain/model.json")


def main(target: str, seed: int) -> str:
    """Evaluate one mask, beside as many random masks and other methods' masks as asked for."""
    params = load_params()
    device = torch_device(params.machine)
    from knowsub.evaluation.evaluate import MaskEvaluation
    from knowsub.evaluation.records import fact_rows, to_json, write_evidence
    from knowsub.kg.facts import read_statements
    from knowsub.lm.load import open_model, read_manifest
    from knowsub.masks.mask import check_model, load_mask
    from knowsub.masks.units import matched_random_masks
    from knowsub.tracking import stage_run

    options, manifest, item = params.test, DATA / "pretrain/model.json", f"{target}-{seed}"
    with stage_run("test", params, item={"target": target, "seed": seed}) as run:
        mask = load_mask(DATA / f"train/{item}/mask.safetensors")
        check_model(mask, read_manifest(manifest)["fingerprint"])
        paths = {name: DATA / f"verbalize/{name}.jsonl" for name in params.targets}
        statements = {name: read_statements(path) for name, path in paths.items()}
        paths = {"text": DATA / "prepare/text/test.txt", "other": DATA / "prepare/text/other.txt"}
        texts = {name: path.read_text("utf-8") for name, path in paths.items()}
        retain = open_model(RETAIN, device)[0] if RETAIN.is_file() else None
        evaluation = MaskEvaluation(
            *open_model(manifest, device), mask, target, statements, texts, options, retain
        )
        context, number = evaluation.context, options.random_masks
        randoms = matched_random_masks(mask, context.matrices, number, evaluation.generator)
        evidence = evaluation.evaluate(mask, randoms)
        names, sizes = params.baseline.methods, params.baseline.size_multipliers
        methods = evaluation.compare_methods(
            DATA / f"baseline/{item}", names, sizes, evidence.metrics
        )
        record = to_json(evidence, methods, options.confidence_level, options.resamples)
        metrics, rows = record["figures"], fact_rows(context, evidence)
        run.metrics(metrics)
        for path in write_evidence(DATA / f"test/{item}", record, rows):
            run.artifact(path)
    ratio, p = metrics["target_ppl_ratio"], metrics["random_p"]
    return f"{target} {seed}: target PPL ratio {ratio:.0f}, random p {p:.3f}"


if __name__ == "__main__":
    stage_main(main)
