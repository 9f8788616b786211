"""Complete the experiment's run in MLflow.

Reads: data/report/summary.json, report.html, figures/, and the files of every stage
Writes: mlflow/tracked.json: the key of the experiment, nothing else
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowsub.config import load_params, stage_main

if TYPE_CHECKING:
    from knowsub.config import Params

DATA, MARKER = Path("data"), Path("mlflow/tracked.json")


def main() -> str:
    """Fill the run of the experiment with parameters, metrics and the report."""
    params = load_params()
    from knowsub.tracking import fill_experiment

    models = remaining_models(params) if params.track.model else ()
    key, place = fill_experiment(params, DATA, models)
    MARKER.parent.mkdir(exist_ok=True)
    MARKER.write_text(json.dumps({"run_key": key}) + "\n", encoding="utf-8")
    return f"run {key[:7]} is complete; `make ui` shows it at http://127.0.0.1:5000/{place}"


def remaining_models(params: Params) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the model without each subnetwork, one at a time, with its tokenizer."""
    from knowsub.lm.load import open_model
    from knowsub.lm.nf4 import dequantize_
    from knowsub.masks.ablation import ablate_, all_matrices
    from knowsub.masks.mask import load_mask

    for target in params.targets:
        for seed in params.seeds:
            model, tokenizer = open_model(DATA / "pretrain" / "model.json")
            path = DATA / "train" / f"{target}-{seed}" / "mask.safetensors"
            ablate_(model, all_matrices(model), load_mask(path))
            dequantize_(model)
            model.name_or_path = str(path)  # no id of the hub, which MLflow would ask for a card
            yield f"{target}-{seed}", {"model": model, "tokenizer": tokenizer}


if __name__ == "__main__":
    stage_main(main)
