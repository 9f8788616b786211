"""A downstream task learned by the original, the remaining and a random-removed model.

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
    """Finetune and examine the models of one mask, resuming where an interrupted call stopped."""
    params = load_params()
    device = torch_device(params.machine)
    from knowsub.downstream.progress import FinetuneProgress
    from knowsub.downstream.results import write_results
    from knowsub.downstream.runs import (
        FinetuneContext,
        fingerprint,
        load_study_masks,
        planned_runs,
        run_all,
    )
    from knowsub.downstream.tasks import build_task
    from knowsub.kg.facts import read_statements
    from knowsub.lm.load import open_model, read_manifest
    from knowsub.provenance import main_root
    from knowsub.tracking import stage_run

    name, options, pin = f"{target}-{seed}", params.finetune, read_manifest(MODEL)["fingerprint"]
    task = build_task(read_statements(Path(f"data/verbalize/{target}.jsonl")), options)
    masks = load_study_masks(Path(f"data/train/{name}"), Path(f"data/baseline/{name}"), pin)
    bench = FinetuneContext(*open_model(MODEL, device), masks, options)
    store = main_root() / ".checkpoints" / f"finetune-{fingerprint(pin, masks, task, options)}"
    item = {"target": target, "seed": seed}
    with stage_run("finetune", params, item=item) as run:
        steps = options.steps * len(list(planned_runs(masks, options)))
        with FinetuneProgress(steps, options.steps, f"finetune {name}", run.metrics) as progress:
            study = run_all(bench, masks, task, options, store, progress)
        folder = Path(f"data/finetune/{name}")
        figures = write_results(folder, study, task, options, item)
        run.metrics(figures)
        run.artifact(folder / "results.json")
    shutil.rmtree(store, ignore_errors=True)  # another copy of the same runs may be at it
    told = [f"{kind} {figures[f'{kind}_target_accuracy']:.2f}" for kind in options.adaptations]
    return f"{target} {seed}: target questions right without the subnetwork: {', '.join(told)}"


if __name__ == "__main__":
    stage_main(main)
