"""Runs in MLflow: one comparable run per experiment, one child per stage and item.

No other file but `logged_model` knows MLflow. The store is `mlflow/` of the main checkout, or
MLFLOW_TRACKING_URI. An experiment is known by its key; whichever of its stages comes first makes
its run, and the stage `track` fills it. A run is never left running: the writer ends it with its
stage, also if the stage was killed, and a writer that comes after a killed one ends what it left.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from knowsub.experiment import VIEW, Experiment, item_name, sanitize, saved_view, view_path
from knowsub.provenance import locked, user
from knowsub.stage_run import StageRun, stage_run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["StageRun", "Store", "stage_run"]

PARENT = "mlflow.parentRunId"
KEY, KIND, STAGE, ITEM = "knowsub.key", "knowsub.kind", "knowsub.stage", "knowsub.item"
SOURCE, SPOOL = "knowsub.source", "knowsub.spool"
NOTE, SHARED = "mlflow.note.content", f"mlflow.sharedViewState.{VIEW}"
SAME = (PARENT, STAGE, ITEM)
"""Tags that the runs of one stage and item of an experiment have in common."""
ORIGIN = {
    "commit": "mlflow.source.git.commit",
    "experiment": "dvc.experiment",
    "baseline": "dvc.baseline",
}
"""Names of the tags that say where the code comes from."""
METRICS, PARAMS, LENGTH = 1000, 100, 6000
"""MLflow's limits: figures and parameters per request, characters per parameter."""

Point = tuple[str, float, int, int]
"""Name, value, time [ms since 1970] and step of a figure."""


class Store:
    """The runs of one experiment."""

    def __init__(self, begun: Experiment) -> None:
        self.begun = begun
        self._lock = begun.folder / ".lock"
        with locked(self._lock):
            self.client = _client(begun)
            self.group = _group(self.client, begun)
            self.parent = self._parent()

    def _parent(self) -> str:
        if found := self._search({KEY: self.begun.key, KIND: "experiment"}):
            return str(found[0].info.run_id)
        known = self.begun.origin
        tags = {KEY: self.begun.key, KIND: "experiment", "mlflow.user": user()}
        tags |= {ORIGIN[name]: value for name, value in known.items()}
        short = "-".join(text[:7] for text in (known.get("commit", ""), self.begun.key) if text)
        name = known.get("experiment") or short
        run = self.client.create_run(self.group, tags=tags, run_name=name)
        self.client.update_run(run.info.run_id, status="SCHEDULED")
        return str(run.info.run_id)

    def _search(self, tags: Mapping[str, str]) -> list[Run]:
        wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        return list(self.client.search_runs([self.group], wanted, max_results=10_000))

    def children(self) -> list[Run]:
        """Return the stages' runs of this experiment, newest first."""
        return self._search({PARENT: self.parent})

    def begin(self, stage: str, item: Mapping[str, object], tags: Mapping[str, str]) -> str:
        """Start the run of a stage, closing or replacing earlier ones of the same stage and item.

        Args:
            stage: Name of the stage; its section of the parameters is logged.
            item: What it works on, such as target and seed; empty if there is but one.
            tags: Whether the stage ran or came from the cache.

        Returns:
            Identifier of the run.
        """
        label = item_name(item)
        own = {PARENT: self.parent, STAGE: stage, ITEM: label}
        more = {KEY: self.begun.key, KIND: "stage", "mlflow.user": user()}
        with locked(self._lock):
            for old in self._search(own):
                self.replace(old, tags.get(SPOOL))
            name = f"{stage} {label}".strip()
            run = self.client.create_run(self.group, tags=own | more | dict(tags), run_name=name)
        values = self.begun.values.items()
        section = {name: value for name, value in values if name.startswith(f"{stage}.")}
        self.params(run.info.run_id, section | {name: str(value) for name, value in item.items()})
        return str(run.info.run_id)

    def replace(self, run: Run, spool: str | None = None) -> None:
        """Drop a run that comes again, or mark it as killed if it never ended.

        Args:
            run: An earlier run of a stage that starts or is missing.
            spool: File that the new run is read from; a run read from the same file comes again.
        """
        if run.info.status == "FINISHED" or (spool and run.data.tags.get(SPOOL) == spool):
            self.client.delete_run(run.info.run_id)
        elif run.info.status == "RUNNING":
            self.client.set_terminated(run.info.run_id, "KILLED")

    def end(self, run_id: str, status: str) -> None:
        """End a run; the experiment has failed if one of its stages has.

        Two checkouts may do the same stage at the same time: the run that finishes last is kept.

        Args:
            run_id: The run.
            status: FINISHED, FAILED or KILLED.
        """
        with locked(self._lock):
            tags = self.client.get_run(run_id).data.tags
            twins = self._search({name: tags[name] for name in SAME}) if STAGE in tags else []
            self.client.set_terminated(run_id, status)
            for twin in twins:
                if twin.info.status == status == "FINISHED" and twin.info.run_id != run_id:
                    self.client.delete_run(twin.info.run_id)
        if status != "FINISHED":
            self.client.set_terminated(self.parent, status)

    def metrics(self, run_id: str, points: Iterable[Point]) -> None:
        """Send figures of a run."""
        from mlflow.entities import Metric

        found = [Metric(sanitize(name), *rest) for name, *rest in points]
        for begin in range(0, len(found), METRICS):
            self.client.log_batch(run_id, metrics=found[begin : begin + METRICS])

    def params(self, run_id: str, values: Mapping[str, str]) -> None:
        """Send parameters of a run; MLflow refuses to change one later."""
        from mlflow.entities import Param

        found = [Param(sanitize(name), value[:LENGTH]) for name, value in values.items()]
        for begin in range(0, len(found), PARAMS):
            self.client.log_batch(run_id, params=found[begin : begin + PARAMS])

    def tags(self, run_id: str, values: Mapping[str, str]) -> None:
        """Set tags of a run, replacing those of the same names."""
        for name, value in values.items():
            self.client.set_tag(run_id, name, value)

    def artifact(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Store a file with a run, unless `track.artifacts` says no."""
        if self.begun.artifacts:
            self.client.log_artifact(run_id, str(path), folder)


def _client(begun: Experiment) -> MlflowClient:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"] = "false"
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    from mlflow import MlflowClient

    for name, level in (("alembic", 30), ("mlflow", 30), ("mlflow.transformers", 40)):
        logging.getLogger(name).setLevel(level)
    return MlflowClient(begun.uri)


def _group(client: MlflowClient, begun: Experiment) -> str:
    """Return the MLflow experiment, made if there is none, with a saved view of its runs."""
    found = client.get_experiment_by_name(begun.name)
    if found is None:
        place = (begun.folder / "artifacts").as_uri() if begun.embedded else None
        found = client.get_experiment(client.create_experiment(begun.name, artifact_location=place))
    group = str(found.experiment_id)
    if found.tags.get(SHARED) != saved_view():
        client.set_experiment_tag(group, SHARED, saved_view())
    if NOTE not in found.tags:
        client.set_experiment_tag(group, NOTE, f"[One row per experiment]({view_path(group)})")
    return group
