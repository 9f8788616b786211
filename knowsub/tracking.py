"""MLflow: one comparable run per experiment, one child run per stage and item; all of it is here.

A stage appends what it logs to a file of its own, `mlflow/spool/*.jsonl`, which it keeps locked
while it lives, so it never waits for a store. A thread of a stage that takes longer than `DELAY`
sends that file to MLflow while the stage works, then those of stages that have ended or were
killed; the stage `track` sends what is left, and completes the experiment's run from the files of
all stages, whether they ran or came from DVC's cache. The store is `mlflow/` of the main checkout
or MLFLOW_TRACKING_URI; the lock `mlflow/.lock` admits one process at a time to it.
"""

from __future__ import annotations

import csv
import fcntl
import json
import logging
import math
import os
import re
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from knowsub.config import Params
from knowsub.provenance import described, flatten, main_root, origin, run_key

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PARENT = "mlflow.parentRunId"
KEY, KIND, STAGE, ITEM = "knowsub.key", "knowsub.kind", "knowsub.stage", "knowsub.item"
SOURCE, SPOOL, CACHED = "knowsub.source", "knowsub.spool", "dvc-cache"
"""Tags; the source of a run whose stage did not run for this experiment is CACHED."""
ONCE = ("prepare", "pretrain", "verbalize", "retain", "analyze", "report")
PER_MASK = ("train", "baseline", "test", "finetune")
"""Stages that run once, and for every target and seed."""
PARAM_COLUMNS = ("targets", "seeds", "train.suppression", "train.steps", "train.lr")
METRIC_COLUMNS = (
    "sparsity", "target_ppl_ratio", "paraphrase_ppl_ratio", "control_ppl_ratio",
    "neighborhood_ppl_ratio", "text_ppl_ratio", "random_target_ppl_ratio",
)  # fmt: skip
"""Parameters and mean metrics in the saved view of MLflow's run list."""
DELAY, INTERVAL = float(os.environ.get("KNOWSUB_SEND_AFTER", "10")), 5.0
"""Age from which on a stage sends what it logs, and the time between two sendings [s]; importing
MLflow takes 2 s of a core, which a short stage is spared."""
PATIENCE = 10.0
"""Longest that a stage which has ended waits for its last sending [s]."""
HTTP = {"MAX_RETRIES": "2", "TIMEOUT": "30"}
"""Requests to a tracking server unless MLflow's variables say otherwise: repeated, and [s] each."""
Point = tuple[str, float, int, int]
"""Name, value, time [ms since 1970] and step of a metric."""


@dataclass(frozen=True)
class Experiment:
    """What runs have in common that belong to the same parameters and the same code."""

    key: str  # its run key
    name: str  # of the MLflow experiment that it is gathered under
    folder: str  # `mlflow/` of the main checkout, absolute
    uri: str  # of the store
    artifacts: bool  # whether files are stored with the runs
    values: dict[str, str]  # dotted key -> value of every parameter that results depend on
    origin: dict[str, str]  # tags that say where the code comes from

    @property
    def spool(self) -> Path:
        """Folder of what is to be sent."""
        return Path(self.folder) / "spool"


def experiment(params: Params) -> Experiment:
    """Return the experiment that a configuration and the code in the working directory make."""
    folder, track = main_root() / "mlflow", params.track
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder}/mlflow.db"
    key, values = run_key(params), flatten(params)
    return Experiment(key, track.experiment, str(folder), uri, track.artifacts, values, origin())


class StageRun:
    """The open run of one stage, which logs to a spool file and sends it in the background."""

    def __init__(self, current: Experiment, path: Path, spool: IO[str]) -> None:
        self._current, self._path, self._spool = current, path, spool
        self._ended, self._status = threading.Event(), ""
        self.sender = threading.Thread(target=self._send, daemon=True)

    def metrics(self, values: Mapping[str, float | int], step: int = 0) -> None:
        """Log metrics of an optimiser step."""
        self.append(metrics={name: float(value) for name, value in values.items()}, step=step)

    def artifact(self, path: Path, folder: str = "") -> None:
        """Store a file, as it is now, in a folder of the run, unless `track.artifacts` says no."""
        if self._current.artifacts:
            copies = self._path.with_suffix("") / folder
            copies.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copies / path.name)

    def append(self, **message: Any) -> None:
        """Write a line of the spool file."""
        self._spool.write(json.dumps(message | {"time": _now()}) + "\n")
        self._spool.flush()

    def end(self, status: str) -> None:
        """Say how the stage ended, and wait a moment for what is being sent."""
        self.append(end=status)
        self._status = status
        self._ended.set()
        self.sender.join(0.0 if status == "KILLED" else PATIENCE)

    def _send(self) -> None:
        """Send the spool file at intervals; what this leaves, the next stage or `track` sends."""
        if self._ended.wait(DELAY) and self._status != "FAILED":  # a failure is shown at once
            return
        sending, reason = _send(self._path), ""
        while self._path.exists():
            last = self._ended.is_set()
            try:
                with _store_lock(self._current):
                    if next(sending, "all is sent"):
                        return
            except (ValueError, OSError) as error:  # logging never fails a stage
                sending, reason = _send(self._path), str(error)
            if last:
                logging.getLogger("knowsub").warning(
                    "not in MLflow yet, the stage track tries again: %s", reason
                )
                return
            for _ in send_abandoned(self._current):
                if self._ended.is_set():
                    break
            self._ended.wait(INTERVAL)


@contextmanager
def stage_run(
    stage: str, params: Params, item: Mapping[str, object] | None = None
) -> Iterator[StageRun]:
    """Keep a run open while a stage works.

    Args:
        stage: Name of the stage; its section of the parameters is logged.
        params: The configuration.
        item: What the stage works on, such as target and seed; None if there is but one.

    Yields:
        The run, to log metrics and files to.

    Raises:
        OSError: If the folder `mlflow/` cannot be written.
    """
    current = experiment(params)
    current.spool.mkdir(parents=True, exist_ok=True)
    path = current.spool / f"{current.key[:16]}-{time.time_ns()}-{os.getpid()}.jsonl"
    with path.with_suffix(".new").open("a", encoding="utf-8") as spool:
        fcntl.flock(spool, fcntl.LOCK_EX)
        run = StageRun(current, path, spool)
        run.append(experiment=asdict(current), stage=stage, item=dict(item or {}))
        Path(spool.name).rename(path)  # whoever finds it finds it locked, with its first line
        run.sender.start()
        status = "FAILED"
        try:
            yield run
            status = "FINISHED"
        except (KeyboardInterrupt, SystemExit):
            status = "KILLED"
            raise
        finally:
            run.end(status)


def _read(path: Path) -> tuple[Experiment, dict[str, Any], list[dict[str, Any]]]:
    """Return a spool file's experiment, first message and others; half a last line is left out."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    first, *messages = [json.loads(line) for line in lines]
    return Experiment(**first.pop("experiment")), first, messages


def _send(path: Path, lives: bool = True) -> Iterator[None]:
    """Send a spool file under the store's lock, more of it at each step until its stage ends."""
    current, first, messages = _read(path)
    store, sent = Store(current), 0
    tags = {SOURCE: "run", SPOOL: path.name}
    run_id = store.begin(first["stage"], first["item"], tags, first["time"])
    while True:
        points = [
            (name, value, message["time"], message["step"])
            for message in messages[sent:]
            for name, value in message.get("metrics", {}).items()
        ]
        store.log(run_id, points)
        last = messages[-1] if messages else first
        if "end" in last or not lives:
            break
        yield
        sent, messages = len(messages), _read(path)[2]
    if (files := path.with_suffix("")).is_dir():
        store.client.log_artifacts(run_id, str(files))
    store.end(run_id, last.get("end", "KILLED"), last["time"])
    shutil.rmtree(files, ignore_errors=True)
    path.unlink()


def send_abandoned(current: Experiment) -> Iterator[tuple[str, Exception | None]]:
    """Send the files whose stages are gone, oldest first; yield name and what went wrong."""
    for path in sorted(current.spool.glob("*.jsonl")):
        error = None
        try:
            with _store_lock(current):
                if _is_abandoned(path):
                    list(_send(path, lives=False))
        except (ValueError, OSError) as failure:  # the others may be sent
            error = failure
        yield path.name, error


def _is_abandoned(path: Path) -> bool:
    """Whether a file's stage is gone; one that a loss of power has damaged is set aside."""
    try:
        with path.open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        _read(path)
    except (ValueError, LookupError, TypeError) as damage:
        logging.getLogger("knowsub").warning("%s: kept as .damaged (%s)", path, damage)
        path.replace(path.with_suffix(".damaged"))
        return False
    except OSError:  # its stage lives, or another process has sent it
        return False
    return True


def send_all(current: Experiment) -> None:
    """Wait until all that an experiment's stages logged is in the store, or say why it is not."""
    own = f"{current.key[:16]}-"
    while any(current.spool.glob(f"{own}*.jsonl")):
        for name, error in send_abandoned(current):
            if error and name.startswith(own):
                raise error
        time.sleep(0.1)  # a copy of the checkout may do the same experiment at the same time


@contextmanager
def _store_lock(current: Experiment) -> Iterator[None]:
    """Be the only process at a store; what goes wrong there is a ValueError of one line."""
    with (Path(current.folder) / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # free again even if the process is killed
        try:
            yield
        except (ValueError, OSError):
            raise
        except Exception as error:  # of MLflow, its database or its server
            line = (str(error) or type(error).__name__).splitlines()[0][:300]
            raise ValueError(f"{current.uri}: cannot be written to: {line}") from error


def _now() -> int:
    return int(time.time() * 1000)


class Store:
    """The runs of one experiment, to be used under the store's lock."""

    def __init__(self, current: Experiment) -> None:
        self.current, self.client = current, _client(current)
        self.group = _group(self.client, current)
        if found := self.search({KEY: current.key, KIND: "experiment"}):
            self.parent = str(found[0].info.run_id)
            return
        commit = current.origin.get("mlflow.source.git.commit", "")
        short = "-".join(text[:7] for text in (commit, current.key) if text)
        name = current.origin.get("dvc.experiment") or f"{described(current.values)} {short}"
        self.parent = self._create(name, {KIND: "experiment", **current.origin}, _now())
        self.client.update_run(self.parent, status="SCHEDULED")

    def search(self, tags: Mapping[str, str]) -> list[Run]:
        """Return the runs with these tags, newest first."""
        wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        return list(self.client.search_runs([self.group], wanted, max_results=10_000))

    def _create(self, name: str, tags: Mapping[str, str], start: int) -> str:
        every = {KEY: self.current.key, "mlflow.user": os.environ.get("USER", "unknown")}
        return str(self.client.create_run(self.group, start, every | {**tags}, name).info.run_id)

    def begin(
        self, stage: str, item: Mapping[str, object], tags: Mapping[str, str], start: int
    ) -> str:
        """Begin a stage's run, in place of what was sent of the same spool file; return its id."""
        for half in self.search({PARENT: self.parent, SPOOL: tags[SPOOL]}) if SPOOL in tags else ():
            self.client.delete_run(half.info.run_id)
        label = item_name(item)
        own = {PARENT: self.parent, KIND: "stage", STAGE: stage, ITEM: label, **tags}
        run_id = self._create(f"{stage} {label}".strip(), own, start)
        values = self.current.values.items()
        section = {name: value for name, value in values if name.startswith(f"{stage}.")}
        self.log(run_id, params=section | {name: str(value) for name, value in item.items()})
        return run_id

    def end(self, run_id: str, status: str, when: int) -> None:
        """End a stage's run; one that has finished replaces an earlier one, else all has failed."""
        self.client.set_terminated(run_id, status, when)
        if status != "FINISHED":
            self.client.set_terminated(self.parent, status, when)
            return
        tags = self.client.get_run(run_id).data.tags
        for twin in self.search({name: tags[name] for name in (PARENT, STAGE, ITEM)}):
            if twin.info.status == "FINISHED" and twin.info.run_id != run_id:
                self.client.delete_run(twin.info.run_id)

    def log(
        self, run_id: str, points: Iterable[Point] = (), params: Mapping[str, str] | None = None
    ) -> None:
        """Send metrics and parameters of a run, as many at once and as long as MLflow takes."""
        from mlflow.entities import Metric, Param

        metrics = [Metric(sanitize(name), *rest) for name, *rest in points]
        for begin in range(0, len(metrics), 1000):
            self.client.log_batch(run_id, metrics=metrics[begin : begin + 1000])
        texts = [Param(sanitize(name), text[:6000]) for name, text in (params or {}).items()]
        for begin in range(0, len(texts), 100):
            self.client.log_batch(run_id, params=texts[begin : begin + 100])


def _client(current: Experiment) -> MlflowClient:
    """Return a client of the store, which is made first if it is the embedded one."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"] = "false"
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    for name, value in HTTP.items():  # a server that is down: `track` ends soon
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
    from mlflow import MlflowClient

    for name, level in (("alembic", 30), ("mlflow", 30), ("mlflow.transformers", 40)):
        logging.getLogger(name).setLevel(level)
    database = Path(current.folder) / "mlflow.db"
    if current.uri == f"sqlite:///{database}" and not database.exists():
        new = database.with_suffix(".new")  # MLflow could not use half a schema, left by a kill
        new.unlink(missing_ok=True)
        MlflowClient(f"sqlite:///{new}").search_experiments()
        new.replace(database)
    return MlflowClient(current.uri)


def _group(client: MlflowClient, current: Experiment) -> str:
    """Return the MLflow experiment, made if there is none, with a saved view of its runs."""
    embedded = current.uri == f"sqlite:///{current.folder}/mlflow.db"
    place = f"{Path(current.folder).as_uri()}/artifacts" if embedded else None
    group = client.get_experiment_by_name(current.name)
    if group is None:
        made = client.create_experiment(current.name, artifact_location=place)
        view = f"[One row per experiment]({view_path(made)})"
        client.set_experiment_tag(made, "mlflow.note.content", view)
        group = client.get_experiment(made)
    number, tag = str(group.experiment_id), "mlflow.sharedViewState.headline"
    if group.lifecycle_stage == "deleted":
        raise ValueError(
            f"MLflow's experiment {current.name!r} is deleted; `mlflow experiments restore "
            f"--experiment-id {number}` brings it back, another track.experiment begins anew"
        )
    if place and group.artifact_location != place:  # copied or moved; MLflow has no call for it
        with closing(sqlite3.connect(f"{current.folder}/mlflow.db")) as database, database:
            for column in ("experiments.artifact_location", "runs.artifact_uri"):
                table, _, name = column.partition(".")
                change = f"update {table} set {name} = replace({name}, ?, ?)"
                database.execute(change, (group.artifact_location, place))
    if group.tags.get(tag) != saved_view():
        client.set_experiment_tag(number, tag, saved_view())
    return number


def saved_view() -> str:
    """Return MLflow's JSON for one row per experiment, newest first, metrics before parameters."""
    columns = [f"metrics.`mean/{name}`" for name in METRIC_COLUMNS]
    columns += [f"params.`{name}`" for name in PARAM_COLUMNS]
    view = {"searchFilter": "tags.`knowsub.kind` = 'experiment'", "lifecycleFilter": "Active"}
    view |= {"orderByKey": "attributes.start_time", "startTime": "ALL"}
    widths = {name: 24 + 7 * len(name.split("`")[1]) for name in columns}
    lists = {"selectedColumns": columns, "columnOrder": columns, "columnWidths": widths}
    return json.dumps({**view, "orderByAsc": False, **lists})


def view_path(group: str) -> str:
    """Return where the saved view of an MLflow experiment is, below the address of the UI."""
    return f"#/experiments/{group}/runs?viewStateShareKey=headline&workflowType=machine_learning"


def view(params: Params) -> tuple[str, str]:
    """Return the address of the store, and the path of its saved view below that of the UI."""
    current = experiment(params)
    with _store_lock(current):
        return current.uri, view_path(_group(_client(current), current))


def item_name(item: Mapping[str, object]) -> str:
    """Return the name of an item, which is that of its folder: `building.n.01-0`."""
    return "-".join(str(value) for value in item.values())


def sanitize(name: str) -> str:
    """Return a name without what MLflow allows in none, such as `@` and brackets."""
    return re.sub(r"[^\w\-./: ]", "_", name)


def fill_experiment(
    params: Params, data: Path, models: Iterable[tuple[str, Mapping[str, Any]]] = ()
) -> tuple[str, str]:
    """Complete the run of the experiment from the files of its stages.

    Args:
        params: The configuration.
        data: Folder that the stages write to.
        models: Remaining models to be stored: the mask's name, and `model` with its `tokenizer`.

    Returns:
        Key of the experiment, and where `make ui` shows it, below the address of the UI.

    Raises:
        FileNotFoundError: If the report's summary is not there.
        ValueError: If the summary is not what `report` writes, or the store cannot be written to.
    """
    report, current = data / "report", experiment(params)
    summary = read_summary(report / "summary.json")
    current.spool.mkdir(parents=True, exist_ok=True)
    _await_server(current)
    send_all(current)
    with _store_lock(current):
        store = Store(current)
        run_id, sources = store.parent, _backfill(store, params, data)
        store.client.set_tag(run_id, "knowsub.stages", str(len(sources)))
        store.client.set_tag(run_id, "knowsub.stages_from_cache", str(sources.count(CACHED)))
        store.log(run_id, _points(headline(summary)), current.values)
        for table in report.glob("results.md"):
            store.client.set_tag(run_id, "mlflow.note.content", table.read_text("utf-8")[:5000])
        files = [report / "summary.json", report / "report.html", *report.glob("figures/*.png")]
        for path in files if current.artifacts else ():
            folder = "figures" if path.suffix == ".png" else None
            store.client.log_artifact(run_id, str(path), folder)
        for name, parts in models:
            _log_model(store, name, parts, params.track.register)
        store.client.set_terminated(run_id, "FINISHED")
    return current.key, view_path(store.group)


def _await_server(current: Experiment) -> None:
    """Say at once that a tracking server does not answer, and wait for it as MLflow does.

    Raises ValueError if it does not answer in that time.
    """
    place = urlsplit(current.uri)
    if place.scheme not in ("http", "https"):
        return
    client = _client(current)
    try:
        port = place.port or (443 if place.scheme == "https" else 80)
        socket.create_connection((place.hostname or "", port), timeout=2.0).close()
    except OSError as error:  # perhaps a proxy reaches it, which MLflow knows of
        retries, timeout = (int(os.environ[f"MLFLOW_HTTP_REQUEST_{name}"]) for name in HTTP)
        logging.getLogger("knowsub").warning(
            "track: %s does not answer (%s); waiting for up to %d s; what was logged is kept in %s",
            current.uri, error, (retries + 1) * timeout + 2**retries, current.spool,
        )  # fmt: skip
    with _store_lock(current):
        client.search_experiments(max_results=1)


def read_summary(path: Path) -> dict[str, Any]:
    """Return the report's summary; refuse a missing one, and one without a list of masks."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; the stage report writes it")
    summary = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(summary, dict) or not isinstance(summary.get("masks"), list):
        raise ValueError(f"{path}: holds no list of masks")
    return summary


def headline(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return `mean/sparsity`, `per_mask/building.n.01-0/sparsity` and the like, to five digits."""
    metrics = dict(_numbers(summary.get("mean", {}), "mean"))
    for mask in summary["masks"]:
        own = {name: value for name, value in mask.items() if name not in ("target", "seed")}
        metrics |= _numbers(own, f"per_mask/{mask['target']}-{mask['seed']}")
    return {name: float(f"{value:.5g}") for name, value in metrics.items()}


def _backfill(store: Store, params: Params, data: Path) -> list[str]:
    """Log the stages that did not run for this experiment; return the sources of all runs."""
    done: dict[tuple[str, str], str] = {}
    for run in store.search({PARENT: store.parent}):
        tags, status = run.data.tags, run.info.status
        if status == "FINISHED":
            done[tags[STAGE], tags[ITEM]] = tags[SOURCE]
        elif status == "RUNNING" and not (store.current.spool / tags.get(SPOOL, "none")).exists():
            store.client.set_terminated(run.info.run_id, "KILLED")
    masks = [{"target": name, "seed": seed} for name, seed in product(params.targets, params.seeds)]
    stages: list[tuple[str, dict[str, object]]] = [*product(ONCE, [{}]), *product(PER_MASK, masks)]
    for stage, item in stages:
        folder, work = data / stage / item_name(item), (stage, item_name(item))
        if work not in done and folder.is_dir():
            run_id = store.begin(stage, item, {SOURCE: CACHED}, _now())
            store.log(run_id, _file_points(folder))
            store.end(run_id, "FINISHED", _now())
            done[work] = CACHED
    return list(done.values())


def _points(metrics: Mapping[str, float], step: int = 0) -> list[Point]:
    return [(name, value, _now(), step) for name, value in metrics.items()]


def _file_points(folder: Path) -> Iterator[Point]:
    """Yield the numbers of a stage's JSON files, and of 200 rows at most of each of its curves."""
    for path in sorted(folder.glob("*.json")):
        yield from _points(dict(_numbers(json.loads(path.read_text(encoding="utf-8")), "")))
    for path in sorted(folder.glob("curve*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row in rows[:: math.ceil(len(rows) / 200) or 1]:
            numbers = {}
            for name, text in row.items():
                with suppress(ValueError):
                    numbers[name] = float(text)
            yield from _points(numbers, int(numbers.pop("step", 0)))


def _numbers(tree: Any, prefix: str) -> Iterator[tuple[str, float]]:
    """Yield the numbers of nested mappings under their joined names; lists are left out."""
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from _numbers(value, f"{prefix}/{name}" if prefix else str(name))
    elif isinstance(tree, int | float) and not isinstance(tree, bool):
        yield prefix, float(tree)


def _log_model(store: Store, name: str, parts: Mapping[str, Any], registered: str) -> None:
    """Store a model in MLflow's transformers flavour unless the run has it; register a version."""
    tag = f"knowsub.model.{sanitize(name)}"
    if tag in store.client.get_run(store.parent).data.tags:
        return
    import mlflow

    mlflow.set_tracking_uri(store.current.uri)
    with mlflow.start_run(run_id=store.parent):
        address = mlflow.transformers.log_model(
            dict(parts),
            name=f"without-{name}".replace(".", "_"),
            task="text-generation",
            registered_model_name=registered or None,
            pip_requirements=["torch", "transformers"],
        ).model_uri
    store.client.set_tag(store.parent, tag, address)
