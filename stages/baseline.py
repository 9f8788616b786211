"""Masks of the trained mask's size by other methods, from the same facts.

Reads: data/pretrain/model.json, data/verbalize/{,unseen/}<target>.jsonl,
    data/train/<target>-<seed>/mask.safetensors
Writes: data/baseline/<target>-<seed>/<method>.safetensors; at the further sizes, as multiples
    of the trained mask's, data/baseline/<target>-<seed>/sizes/<method>-<factor>.safetensors
"""

from __future__ import annotations

from pathlib import Path

from knowsub.config import load_params, stage_main, torch_device

DATA = Path("data")


def main(target: str, seed: int) -> str:
    """Choose as many weights per matrix as the trained mask has, by every method."""
    params = load_params()
    device = torch_device(params.machine)
    from knowsub.baselines.methods import baseline_masks, calibration_data
    from knowsub.kg.facts import read_statements
    from knowsub.lm.load import open_model, read_manifest
    from knowsub.masks.mask import check_model, load_mask, save_mask
    from knowsub.tracking import stage_run

    options, manifest = params.baseline, DATA / "pretrain/model.json"
    out = DATA / f"baseline/{target}-{seed}"
    (out / "sizes").mkdir(parents=True, exist_ok=True)
    with stage_run("baseline", params, {"target": target, "seed": seed}) as run:
        mask = load_mask(DATA / f"train/{target}-{seed}/mask.safetensors")
        check_model(mask, read_manifest(manifest)["fingerprint"])
        model, tokenizer = open_model(manifest, device)
        statements = [
            statement
            for folder in ("", "unseen/")
            for statement in read_statements(DATA / f"verbalize/{folder}{target}.jsonl")
        ]
        data = calibration_data(model, tokenizer, mask, statements, options)
        for method, factor, baseline in baseline_masks(mask, data, options):
            same_size = factor == 1
            file = f"{method}.safetensors" if same_size else f"sizes/{method}-{factor}.safetensors"
            save_mask(baseline, out / file)
            if same_size:
                run.metrics({f"{method}_weights": float(baseline.size)})
    return f"{target} {seed}: {len(options.methods)} methods, {mask.size} weights each"


if __name__ == "__main__":
    stage_main(main)
