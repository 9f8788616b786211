"""Finetune the original, the remaining and a random-removed model on a downstream task.

Reads: data/pretrain/model.json and model, data/verbalize/<target>.jsonl,
    data/train/<target>-<seed>/mask.safetensors, data/baseline/<target>-<seed>/random.safetensors
Writes: data/finetune/<target>-<seed>/{results.json, curves.csv}
"""

from __future__ import annotations

import shutil
from pathlib import Path

from knowsub.config import load_params, stage_main, torch_device
from knowsub.progress import progress_bar
from knowsub.provenance import main_root, stage_key
from knowsub.tracking import stage_run

MODEL = Path("data/pretrain/model.json")


def main(target: str, seed: int) -> str:
    """Finetune and evaluate the models of one mask, resuming where an interrupted call stopped."""
    params = load_params()
    device = torch_device(params.machine)
    from knowsub.downstream import runs
    from knowsub.downstream.finetune import EvalPoint
    from knowsub.downstream.model import FinetuneContext
    from knowsub.downstream.question_files import build_task
    from knowsub.kg.facts import read_statements
    from knowsub.lm.load import open_model, read_manifest

    name, options = f"{target}-{seed}", params.finetune
    model_id = read_manifest(MODEL)["fingerprint"]
    task = build_task(read_statements(Path(f"data/verbalize/{target}.jsonl")), options)
    masks = runs.load_masks(Path(f"data/train/{name}"), Path(f"data/baseline/{name}"), model_id)
    context = FinetuneContext(*open_model(MODEL, device), masks, options)
    folder, item = Path(f"data/finetune/{name}"), {"target": target, "seed": seed}
    checkpoints = main_root() / f".checkpoints/finetune-{stage_key('finetune', item, params)[:16]}"
    plan, steps = list(runs.planned_runs(masks, options)), options.steps
    with stage_run("finetune", params, item) as run:
        with progress_bar(steps * len(plan), f"finetune {name}", run.metrics) as show:

            def show_points(work: runs.FinetuneRun, points: list[EvalPoint]) -> None:
                for point in points:
                    curve = f"{work.adaptation}/{work.model}/{point.split}"
                    values = {f"{curve}_accuracy": point.accuracy, f"{curve}_loss": point.loss}
                    logged = {"step": point.step, **({} if work.repeat else values)}
                    show(logged, plan.index(work) * steps + point.step)

            results = runs.run_all(context, masks, task, options, checkpoints, show_points)
        metrics = runs.write_results(folder, results, task, options, item)
        run.metrics(metrics)
        run.artifact(folder / "results.json")
    shutil.rmtree(checkpoints, ignore_errors=True)  # another copy of the same runs may use it
    words = [f"{kind} {metrics[f'{kind}_target_accuracy']:.2f}" for kind in options.adaptations]
    return f"{target} {seed}: target accuracy without the subnetwork: {', '.join(words)}"


if __name__ == "__main__":
    stage_main(main)
