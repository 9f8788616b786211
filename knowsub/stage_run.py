"""The run that a stage logs to.

MLflow takes seconds to import and to open its store, so it works in one process beside the stages,
the writer (`knowsub.writer`). A stage writes what it logs to a file of its own, `mlflow/spool/*`,
which it holds locked while it lives; the writer reads along. So a stage never waits for a store,
what was logged is not lost if the writer is killed, and a stage that was killed is known by the
lock that it no longer holds.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from knowsub.experiment import Experiment, experiment
from knowsub.config import Params

_WRITERS: list[subprocess.Popen[bytes]] = []
"""Writers started by this process, kept until it ends: they outlive it."""
LOCK = "writer.lock"
"""File in the folder of the store that its writer holds locked."""
TRIES = 3
"""Writers that may fail before a stage that waits for them gives up."""


class StageRun:
    """The open run of one stage; what it is given appears in MLflow within seconds."""

    def __init__(self, spool: IO[str], files: Path | None) -> None:
        self._spool = spool
        self._files = files

    def metrics(self, values: Mapping[str, float | int], step: int = 0) -> None:
        """Log figures.

        Args:
            values: Name -> figure.
            step: Optimiser step that they belong to [steps].
        """
        figures = {name: float(value) for name, value in values.items()}
        self._tell(metrics=figures, step=step, time=int(time.time() * 1000))

    def params(self, values: Mapping[str, object]) -> None:
        """Log what was decided once; a value cannot be changed later.

        Args:
            values: Name -> value, cut at 6000 characters.
        """
        self._tell(params={name: str(value) for name, value in values.items()})

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags, replacing those of the same names.

        Args:
            values: Name -> text.
        """
        self._tell(tags=dict(values))

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Store a file with the run as it is now, unless `track.artifacts` says no.

        Args:
            path: The file.
            folder: Folder among the run's artifacts; None means the top.
        """
        if self._files is not None:
            copy = self._files / uuid.uuid4().hex / path.name
            copy.parent.mkdir(parents=True)
            shutil.copyfile(path, copy)
            self._tell(artifact=str(copy), folder=folder)

    def _tell(self, **message: Any) -> None:
        self._spool.write(json.dumps(message) + "\n")
        self._spool.flush()


@contextmanager
def stage_run(
    stage: str, params: Params, item: Mapping[str, object] | None = None
) -> Iterator[StageRun]:
    """Keep a run of MLflow open while a stage works.

    Args:
        stage: Name of the stage; its section of the parameters is logged.
        params: The configuration.
        item: What the stage works on, such as target and seed; None if there is but one.

    Yields:
        The run, to log figures and files to.
    """
    begun = experiment(params)
    folder = spool_folder(begun)
    path = folder / f"{begun.key[:16]}-{time.time_ns()}-{os.getpid()}"
    with path.open("a", encoding="utf-8") as spool:
        fcntl.flock(spool, fcntl.LOCK_EX)
        run = StageRun(spool, folder / "files" if begun.artifacts else None)
        run._tell(experiment=asdict(begun), stage=stage, item=dict(item or {}))
        path.rename(path.with_suffix(".jsonl"))
        start_writer(begun)
        status = "FAILED"
        try:
            yield run
            status = "FINISHED"
        except (KeyboardInterrupt, SystemExit):
            status = "KILLED"
            raise
        finally:
            run._tell(end=status)


def spool_folder(begun: Experiment) -> Path:
    """Return the folder of what waits to be logged, made if there is none."""
    folder = begun.folder / "spool"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def start_writer(begun: Experiment) -> None:
    """Start a writer beside this process unless one is at work; of two, one ends at once.

    Args:
        begun: The experiment, which says where the store is.
    """
    with (begun.folder / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
    with (begun.folder / "writer.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "knowsub.writer", str(begun.folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    _WRITERS.append(process)


def await_writer(begun: Experiment) -> None:
    """Wait until everything that stages of an experiment logged so far is in the store.

    Args:
        begun: The experiment.

    Raises:
        ValueError: If the store cannot be written to; the message says where to read why.
    """
    folder, before = spool_folder(begun), len(_WRITERS)
    while any(folder.glob(f"{begun.key[:16]}-*.jsonl")):
        start_writer(begun)
        failed = [writer for writer in _WRITERS[before:] if writer.poll()]
        if len(failed) >= TRIES:
            raise ValueError(
                f"{begun.uri}: cannot be written to; {begun.folder}/writer.log says why"
            )
        time.sleep(0.1)
