"""Complete the experiment's run in MLflow.

reads   data/report/summary.json, report.html, figures/, and the files of every stage
writes  mlflow/tracked.json: the key of the experiment, nothing else
"""

from __future__ import annotations

import json
from pathlib import Path

from knowsub.config import load_params, stage_main

MARKER = Path("mlflow/tracked.json")


def main() -> str:
    """Fill the run of the experiment with parameters, figures and the report.

    Returns:
        Summary line.
    """
    params = load_params()
    from knowsub.backfill import fill_experiment

    key = fill_experiment(params, Path("data"))
    MARKER.parent.mkdir(exist_ok=True)
    MARKER.write_text(json.dumps({"run_key": key}) + "\n", encoding="utf-8")
    return f"run {key[:7]} is complete; `make ui` shows it"


if __name__ == "__main__":
    stage_main(main)
