"""The critical subnetwork of one target KG and seed.

Reads: data/pretrain/model.json and model, data/verbalize/{,unseen/}<target>.jsonl,
    data/prepare/text/{train,validation}.txt
Writes: data/train/<target>-<seed>/{mask.safetensors, training.json, curve.csv, validations.csv}

`torchrun --nproc-per-node N -m stages.train TARGET SEED`: the same mask, see docs/scale.md.
"""

from __future__ import annotations

from math import gcd
from pathlib import Path

from knowsub.config import load_params, stage_main, torch_device
from knowsub.progress import progress_bar
from knowsub.provenance import main_root, stage_key

MODEL, OUT = Path("data/pretrain/model.json"), Path("data/train")
SHOWN = ("suppression", "control", "text", "density")
TEXTS = Path("data/prepare/text/train.txt"), Path("data/prepare/text/validation.txt")


def main(target: str, seed: int) -> str:
    """Search the model for one subnetwork, resuming where an interrupted search stopped."""
    params = load_params()
    device = torch_device(params.machine)
    from knowsub.discovery import checkpoint, distributed, setup
    from knowsub.discovery.trainer import find_subnetwork
    from knowsub.kg.facts import read_statements
    from knowsub.lm.load import open_model, read_manifest
    from knowsub.tracking import stage_run

    options, scratch = params.train, main_root() / ".checkpoints"
    files = [Path(f"data/verbalize/{part}{target}.jsonl") for part in ("", "unseen/")]
    item = {"target": target, "seed": str(seed)}
    logged, key = stage_run("train", params, item), stage_key("train", item, params)
    with distributed.init_processes(device) as processes, processes.main_only(logged) as run:
        allocator = setup.MemmapAllocator(scratch, params.machine.memory_gb)
        model = setup.SearchModel(*open_model(MODEL, device), options, allocator)
        statements = [statement for path in files for statement in read_statements(path)]
        texts = TEXTS[0].read_text("utf-8"), TEXTS[1].read_text("utf-8")
        trainer, validate = setup.build_search(model, statements, *texts, seed, processes)
        checkpoints = checkpoint.Checkpoints(scratch / key[:16], key)
        log, every = run.metrics if run else None, gcd(10, options.evaluate_every)
        with progress_bar(options.steps, f"train {target} {seed}", log, SHOWN, every) as show:
            result = find_subnetwork(trainer, validate, show, checkpoints)
        if run is None:
            return f"{target} {seed}: process {processes.rank} is done"
        fingerprint, meta = read_manifest(MODEL)["fingerprint"], {"method": "learned", **item}
        mask = trainer.gates.to_mask(result.bits, fingerprint, meta)
        for path in setup.write_search_result(OUT / f"{target}-{seed}", mask, result, options):
            run.artifact(path)
        run.metrics({"sparsity": mask.sparsity, "qualified": float(result.qualified)})
        checkpoints.clear()
    return f"{target} {seed}: sparsity {mask.sparsity:.4f}, step {result.chosen.step}"


if __name__ == "__main__":
    stage_main(main)
