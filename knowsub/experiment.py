"""The experiment that a configuration and the code at hand make, and the names of its parts."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from knowsub.provenance import flatten, main_root, origin, run_key
from knowsub.config import Params

VIEW = "headline"
"""Name of the saved view of MLflow's run list; `saved_view` says what it shows."""
CHOICES = {"targets": 170, "seeds": 80, "train.suppression": 130, "train.steps": 90, "train.lr": 70}
"""Parameters shown in it, and the widths of their columns [pixels]."""
FIGURES = {
    "sparsity": 110,
    "target_ppl_ratio": 150,
    "paraphrase_ppl_ratio": 180,
    "control_ppl_ratio": 160,
    "heldout_ppl_ratio": 160,
    "text_ppl_ratio": 140,
    "random_target_ppl_ratio": 200,
}
"""Mean figures shown in it, and the widths of their columns [pixels]."""


@dataclass(frozen=True)
class Experiment:
    """What runs have in common that belong to the same parameters and the same code."""

    key: str
    """Its run key."""
    name: str
    """Name of the MLflow experiment that it is gathered under."""
    root: str
    """Main checkout, where the embedded store is."""
    uri: str
    """Address of the store: MLFLOW_TRACKING_URI, or that of the embedded one."""
    artifacts: bool
    """Whether files are stored with the runs."""
    values: dict[str, str]
    """Every parameter that results depend on, by its dotted key."""
    origin: dict[str, str]
    """Commit, and DVC's experiment if it is one."""

    @property
    def folder(self) -> Path:
        """Folder of the embedded store, of its lock and of what waits to be logged."""
        return Path(self.root) / "mlflow"

    @property
    def embedded(self) -> bool:
        """Whether the store is the embedded one."""
        return self.uri == embedded_uri(self.folder)


def embedded_uri(folder: Path) -> str:
    """Return the address of the store in a folder."""
    return f"sqlite:///{folder}/mlflow.db"


def experiment(params: Params) -> Experiment:
    """Return the experiment that a configuration and the code in the working directory make.

    Args:
        params: The configuration.

    Returns:
        The experiment.
    """
    root = main_root()
    return Experiment(
        key=run_key(params),
        name=params.track.experiment,
        root=str(root),
        uri=os.environ.get("MLFLOW_TRACKING_URI") or embedded_uri(root / "mlflow"),
        artifacts=params.track.artifacts,
        values=flatten(params),
        origin=origin(),
    )


def saved_view() -> str:
    """Return what MLflow's run list shows when it is opened by the name of the saved view.

    Returns:
        JSON as MLflow keeps it in a tag of the experiment: one row per experiment, newest first,
        with the choices that differ most often and the mean figures of the README's table.
    """
    widths = {f"params.`{name}`": width for name, width in CHOICES.items()}
    widths |= {f"metrics.`mean/{name}`": width for name, width in FIGURES.items()}
    view = {
        "searchFilter": "tags.`knowsub.kind` = 'experiment'",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "selectedColumns": list(widths),
        "columnOrder": list(widths),
        "columnWidths": widths,
    }
    return json.dumps(view)


def view_path(group: str) -> str:
    """Return where the saved view of an MLflow experiment is, below the address of the UI.

    Args:
        group: Identifier of the MLflow experiment.

    Returns:
        Path and fragment, without a leading slash.
    """
    return f"#/experiments/{group}/runs?viewStateShareKey={VIEW}&workflowType=machine_learning"


def item_name(item: Mapping[str, object]) -> str:
    """Return the name of an item, which is that of its folder: `building.n.01-0`."""
    return "-".join(str(value) for value in item.values())


def sanitize(name: str) -> str:
    """Return a name without what MLflow allows in none, such as `@` and brackets."""
    return re.sub(r"[^\w\-./: ]", "_", name)
