"""Finetune the original, the remaining and a random-removed model on a downstream task.

Reads: data/pretrain/model.json and model, data/verbalize/<target>.jsonl,
    data/train/<target>-<seed>/mask.safetensors,
    data/baseline/<target>-<seed>/random.safetensors
Writes: data/finetune/<target>-<seed>/{results.json, curves.csv}
"""

from __future__ import annotations

import shutil
from pathlib import Path

from knowsub.config import load_params, stage_main, torch_device

MODEL = Path("data/pretrain/model.json")


def main(target: str, seed: int) -> str:
    """Finetune and evaluate the models of one mask, resuming where an interrupted call stopped."""
    params = load_params()
    device = torch_device(params.machine)
    from knowsub.downstream.model import FinetuneContext
    from knowsub.downstream.progress import FinetuneProgress
    from knowsub.downstream.question_files import build_task
    from knowsub.downstream.runs import (
        fingerprint,
        load_masks,
        planned_runs,
        run_all,
        write_results,
    )
    from knowsub.kg.facts import read_statements
    from knowsub.lm.load import open_model, read_manifest
    from knowsub.provenance import main_root
    from knowsub.tracking import stage_run

    name, options = f"{target}-{seed}", params.finetune
    model_id = read_manifest(MODEL)["fingerprint"]
    task = build_task(read_statements(Path(f"data/verbalize/{target}.jsonl")), options)
    masks = load_masks(Path(f"data/train/{name}"), Path(f"data/baseline/{name}"), model_id)
    context = FinetuneContext(*open_model(MODEL, device), masks, options)
    key = fingerprint(model_id, masks, task, options)
    checkpoints = main_root() / ".checkpoints" / f"finetune-{key}"
    item = {"target": target, "seed": seed}
    with stage_run("finetune", params, item=item) as run:
        steps = options.steps * len(list(planned_runs(masks, options)))
        with FinetuneProgress(steps, options.steps, f"finetune {name}", run.metrics) as progress:
            results = run_all(context, masks, task, options, checkpoints, progress)
        folder = Path(f"data/finetune/{name}")
        metrics = write_results(folder, results, task, options, item)
        run.metrics(metrics)
        run.artifact(folder / "results.json")
    shutil.rmtree(checkpoints, ignore_errors=True)  # another copy of the same runs may use it
    accuracies = [
        f"{kind} {metrics[f'{kind}_target_accuracy']:.2f}" for kind in options.adaptations
    ]
    return f"{target} {seed}: target accuracy without the subnetwork: {', '.join(accuracies)}"


if __name__ == "__main__":
    stage_main(main)
