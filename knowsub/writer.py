"""The process beside the stages that logs what they say; see `stage_run`.

    python -m knowsub.writer <folder of the store>

One at a time works for a store. It ends when nothing is left to log and no stage has come for a
while, or when the folder is gone.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from knowsub.experiment import Experiment
from knowsub.stage_run import LOCK
from knowsub.tracking import METRICS, SOURCE, SPOOL, Point, Store

POLL = 0.2
"""Time between two looks at the spool [s]."""
PATIENCE = 40.0
"""Time that a writer stays without work [s]."""
DAMAGED = (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError)
"""What reading a stage's file raises where it is not what the stage wrote."""


class Reading:
    """One stage's file as far as it has been logged."""

    def __init__(self, path: Path, stores: dict[str, Store]) -> None:
        self.path = path
        self._file = path.open(encoding="utf-8")
        opening = json.loads(self._file.readline())
        begun = Experiment(**opening["experiment"])
        place = f"{begun.uri} {begun.name} {begun.key}"
        if place not in stores:
            stores[place] = Store(begun)
        self.store = stores[place]
        stage, item = opening["stage"], opening["item"]
        tags = {SOURCE: "run", SPOOL: path.name}
        self.run_id = self.store.begin(stage, item, tags)
        self._copies: list[Path] = []

    def follow(self) -> bool:
        """Log what the stage has said since the last time.

        Returns:
            Whether the stage has ended.
        """
        ended = self._abandoned()
        points: list[Point] = []
        status = "KILLED" if ended else ""
        for message in self._messages():
            status = message.get("end", status)
            for name, value in message.get("metrics", {}).items():
                points.append((name, value, message["time"], message["step"]))
            if len(points) >= METRICS:
                self.store.metrics(self.run_id, points)
                points = []
            self._take(message)
        self.store.metrics(self.run_id, points)
        if status:
            self._file.close()
            self.store.end(self.run_id, status)
            for copy in self._copies:
                shutil.rmtree(copy, ignore_errors=True)
            self.path.unlink()
        return bool(status)

    def _messages(self) -> Iterator[dict[str, Any]]:
        """Yield the whole lines that have come; the rest of a line comes later."""
        while True:
            begin = self._file.tell()
            line = self._file.readline()
            if not line.endswith("\n"):
                self._file.seek(begin)
                return
            yield json.loads(line)

    def _take(self, message: Mapping[str, Any]) -> None:
        if "params" in message:
            self.store.params(self.run_id, message["params"])
        if "tags" in message:
            self.store.tags(self.run_id, message["tags"])
        if "artifact" in message:
            path = Path(message["artifact"])
            self.store.artifact(self.run_id, path, message["folder"])
            self._copies.append(path.parent)

    def _abandoned(self) -> bool:
        """Whether the stage no longer holds its file, so that nothing more will be said."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def write(folder: Path, lock: IO[str]) -> None:
    """Log what stages say until there is nothing left to say.

    Args:
        folder: Folder of the store.
        lock: Its lock file, locked by the caller. A folder that was deleted and made anew has
            another one, and another writer.
    """
    stores: dict[str, Store] = {}
    open_files: dict[Path, Reading] = {}
    idle_since = time.monotonic()
    while time.monotonic() - idle_since < PATIENCE and _is_at(lock, folder / LOCK):
        for path in sorted((folder / "spool").glob("*.jsonl")):
            try:
                if path not in open_files:
                    open_files[path] = Reading(path, stores)
                if open_files[path].follow():
                    del open_files[path]
            except DAMAGED as error:
                _set_aside(path, error)
                if reading := open_files.pop(path, None):
                    reading.store.end(reading.run_id, "KILLED")
            idle_since = time.monotonic()
        time.sleep(POLL)


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file is still the one that a path names."""
    if not path.is_file():
        return False
    held, named = os.fstat(file.fileno()), path.stat()
    return (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)


def _set_aside(path: Path, error: Exception) -> None:
    """Rename a file that cannot be read, as one is left by a loss of power: it would stop all."""
    logging.warning("%s: not logged from here on (%s); kept as .damaged", path, error)
    path.replace(path.with_suffix(".damaged"))


def main(folder: Path) -> None:
    """Write for a store until there is no work, unless another process does.

    Args:
        folder: Folder of the store.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    os.chdir(folder)
    while folder.is_dir():
        with (folder / LOCK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            write(folder, lock)
            if not _is_at(lock, folder / LOCK):
                return  # MLflow still has the old store open
        if not any((folder / "spool").glob("*.jsonl")):
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]))
