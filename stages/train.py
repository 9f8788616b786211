"""The critical subnetwork of one target KG and seed.

Reads: data/pretrain/model.json and model, data/verbalize/{,unseen/}<target>.jsonl,
    data/prepare/text/{train,validation}.txt
Writes: data/train/<target>-<seed>/{mask.safetensors, curve.csv, training.json}

`accelerate launch --multi_gpu --num_processes N -m stages.train TARGET SEED`: the same mask.
"""

from __future__ import annotations

from pathlib import Path

from knowsub.config import load_params, stage_main, torch_device

MODEL = Path("data/pretrain/model.json")
TEXTS, TOLD = Path("data/prepare/text"), Path("data/verbalize")


def main(target: str, seed: int) -> str:
    """Search the model for one subnetwork, resuming where an interrupted search stopped."""
    params = load_params()
    device = torch_device(params.machine)
    from knowsub.discovery.checkpoint import search_checkpoints, write_search_result
    from knowsub.discovery.distributed import process_group
    from knowsub.discovery.progress import SearchProgress
    from knowsub.discovery.setup import MemmapAllocator, SearchBuilder
    from knowsub.discovery.trainer import find_subnetwork
    from knowsub.kg.facts import read_statements
    from knowsub.lm.load import open_model, read_manifest
    from knowsub.provenance import main_root
    from knowsub.tracking import stage_run

    options, scratch = params.train, main_root() / ".checkpoints"
    told = [TOLD / f"{target}.jsonl", TOLD / f"unseen/{target}.jsonl"]
    logged = stage_run("train", params, item={"target": target, "seed": seed})
    with process_group(device) as processes, processes.only_first(logged) as run:
        prepared = SearchBuilder(
            *open_model(MODEL, device), options, MemmapAllocator(scratch, params.machine.memory_gb)
        )
        read, text = [one for path in told for one in read_statements(path)], TEXTS / "train.txt"
        learned, judged = (path.read_text("utf-8") for path in (text, TEXTS / "validation.txt"))
        search, validate = prepared.only_search(read, learned, judged, seed, processes)
        store = search_checkpoints(scratch, options, target, seed, [*told, MODEL, text])
        with SearchProgress(options.steps, f"train {target} {seed}", run) as progress:
            found = find_subnetwork(search, validate, progress, store)
        meta = {"method": "learned", "target": target, "seed": str(seed)}
        mask = search.gates.to_mask(found.bits, read_manifest(MODEL)["fingerprint"], meta)
        if run is None:
            return f"{target} {seed}: process {processes.rank} is done"
        for path in write_search_result(Path(f"data/train/{target}-{seed}"), mask, found, options):
            run.artifact(path)
        run.metrics({"sparsity": mask.sparsity, "qualified": float(found.qualified)})
        store.clear()
    return f"{target} {seed}: sparsity {mask.sparsity:.4f}, step {found.chosen.step}"


if __name__ == "__main__":
    stage_main(main)
