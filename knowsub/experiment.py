"""The experiment that a configuration and the code at hand make, and the names of its parts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from knowsub.checkout import flatten, main_root, origin, run_key
from knowsub.schema import Params


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


def item_name(item: Mapping[str, object]) -> str:
    """Return the name of an item, which is that of its folder: `building.n.01-0`."""
    return "-".join(str(value) for value in item.values())
