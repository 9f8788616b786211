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
    from knowsub.checkout import main_root
    from knowsub.downstream.bench import Bench
    from knowsub.downstream.progress import Progress
    from knowsub.downstream.results import write_results
    from knowsub.downstream.study import conduct, fingerprint, load_masks, runs
    from knowsub.downstream.task import build_task
    from knowsub.kg.files import read_statements
    from knowsub.lm.load import open_model, read_pins
    from knowsub.tracking import stage_run

    name, options, pin = f"{target}-{seed}", params.finetune, read_pins(MODEL)["fingerprint"]
    task = build_task(read_statements(Path(f"data/verbalize/{target}.jsonl")), options)
    masks = load_masks(Path(f"data/train/{name}"), Path(f"data/baseline/{name}"), pin)
    bench = Bench(*open_model(MODEL, device), masks, options)
    store = main_root() / ".checkpoints" / f"finetune-{fingerprint(pin, masks, task, options)}"
    item = {"target": target, "seed": seed}
    with stage_run("finetune", params, item=item) as run:
        steps = options.steps * len(list(runs(masks, options)))
        with Progress(steps, options.steps, f"finetune {name}", run.metrics) as progress:
            study = conduct(bench, masks, task, options, store, progress)
        folder = Path(f"data/finetune/{name}")
        figures = write_results(folder, study, task, options, item)
        run.metrics(figures)
        run.artifact(folder / "results.json")
    shutil.rmtree(store, ignore_errors=True)  # another copy of the same runs may be at it
    told = [f"{kind} {figures[f'{kind}_target_accuracy']:.2f}" for kind in options.adaptations]
    return f"{target} {seed}: target questions right without the subnetwork: {', '.join(told)}"


if __name__ == "__main__":
    stage_main(main)
