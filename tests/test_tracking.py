"""Runs in a real MLflow store: one per experiment, one per stage and item, none lost or left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from knowsub import tracking
from knowsub.config import Params, load_params
from knowsub.report.metrics import METRIC_SPECS
from knowsub.tracking import (
    ITEM,
    KEY,
    KIND,
    METRIC_COLUMNS,
    PARAM_COLUMNS,
    PARENT,
    SOURCE,
    STAGE,
    Experiment,
    experiment,
    fill_experiment,
    headline,
    read_summary,
    send_all,
    stage_run,
    view_path,
)
from tests.browser import CHROMIUM, browser
from tests.tour.pictures import open_comparison, open_list, ui

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

ROOT = Path(__file__).parents[1]
ITEMS = {"target": "building.n.01", "seed": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkout with its own store; every test is an experiment of its own in it."""
    here = tmp_path_factory.mktemp("checkout").resolve()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.delenv("DVC_ROOT", raising=False)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        params = load_params(path=ROOT / "params.yaml")
        with stage_run("prepare", params):
            pass
        send_all(experiment(params))
        yield here


@pytest.fixture
def make(folder: Path) -> Iterator[Callable[[], Params]]:
    """Returns a configuration that no other test has."""

    def configuration() -> Params:
        make_seed = int.from_bytes(os.urandom(4)) // 2
        return load_params([f"seeds=[0,{make_seed}]"], path=ROOT / "params.yaml")

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield configuration


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages send what they log from their first moment on, and often."""
    monkeypatch.setattr(tracking, "DELAY", 0.0)
    monkeypatch.setattr(tracking, "INTERVAL", 0.1)


def client(current: Experiment) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(current.uri)


def runs(current: Experiment) -> tuple[list[Run], list[Run]]:
    """Return the experiment's own runs, and its stages'."""
    send_all(current)
    store = client(current)
    group = store.get_experiment_by_name(current.name)
    assert group is not None
    found = store.search_runs([group.experiment_id], f"tags.`knowsub.key` = '{current.key}'")
    whole = [run for run in found if run.data.tags[KIND] == "experiment"]
    return whole, [run for run in found if run.data.tags[KIND] == "stage"]


def test_what_a_stage_logs_is_in_the_store(make: Callable[[], Params], folder: Path) -> None:
    params = make()
    note = folder / "note.txt"
    note.write_text("as it was")
    with stage_run("train", params, ITEMS) as run:
        for step in range(1500):
            run.metrics({"loss": 1.0 / (step + 1)}, step=step)
        run.metrics({"odd@name[0]": 1})
        run.artifact(note, "notes")
        note.write_text("as it became")
    current = experiment(params)
    whole, stages = runs(current)
    assert len(whole) == len(stages) == 1
    logged, store = stages[0], client(current)
    assert logged.info.status == "FINISHED"
    assert logged.info.run_name == "train building.n.01-0"
    assert logged.data.tags[PARENT] == whole[0].info.run_id
    assert logged.data.tags[SOURCE] == "run"
    assert logged.data.params["train.lr"] == str(params.train.lr)
    assert logged.data.params["target"] == "building.n.01"
    assert logged.data.metrics["odd_name_0_"] == 1.0
    history = store.get_metric_history(logged.info.run_id, "loss")
    assert [point.step for point in history] == list(range(1500))
    stored = store.download_artifacts(logged.info.run_id, "notes/note.txt")
    assert Path(stored).read_text() == "as it was"
    assert not list((folder / "mlflow" / "spool").rglob("note.txt"))


def test_an_experiment_that_is_not_complete_is_not_shown_as_running(
    make: Callable[[], Params],
) -> None:
    params = make()
    with stage_run("prepare", params):
        pass
    whole, _ = runs(experiment(params))
    assert [run.info.status for run in whole] == ["SCHEDULED"]


def test_a_stage_that_comes_again_replaces_its_run(make: Callable[[], Params]) -> None:
    params = make()
    for value in (1.0, 2.0):
        with stage_run("train", params, ITEMS) as run:
            run.metrics({"loss": value})
    _, stages = runs(experiment(params))
    assert [run.data.metrics["loss"] for run in stages] == [2.0]


def test_one_stage_done_twice_at_the_same_time_is_one_run(
    make: Callable[[], Params], at_once: None
) -> None:
    params = make()
    current = experiment(params)
    with stage_run("train", params, ITEMS) as first:
        first.metrics({"loss": 1.0})
        wait_for_runs(current, 1)
        with stage_run("train", params, ITEMS) as second:
            second.metrics({"loss": 1.0})
            wait_for_runs(current, 2)
    _, stages = runs(current)
    assert [(run.info.status, run.data.metrics["loss"]) for run in stages] == [("FINISHED", 1.0)]


def runs_in(current: Experiment) -> list[Run]:
    """Return the runs of stages that have been sent."""
    store = client(current)
    group = store.get_experiment_by_name(current.name)
    assert group is not None
    wanted = f"tags.`{KEY}` = '{current.key}' and tags.`{KIND}` = 'stage'"
    return list(store.search_runs([group.experiment_id], wanted))


def wait_for_runs(current: Experiment, number: int) -> None:
    """Wait until so many runs of stages are in the store."""
    deadline = time.monotonic() + 300.0
    while len(runs_in(current)) < number:
        assert time.monotonic() < deadline, "nothing is sent"
        time.sleep(0.2)


def test_a_stage_that_fails_leaves_a_failed_run(make: Callable[[], Params]) -> None:
    params = make()

    def stage() -> None:
        with stage_run("train", params, ITEMS) as run:
            run.metrics({"loss": 1.0})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stage()
    whole, stages = runs(experiment(params))
    assert [run.info.status for run in whole + stages] == ["FAILED", "FAILED"]
    assert stages[0].data.metrics == {"loss": 1.0}


STAGE_CODE = """
import sys, time
from pathlib import Path
from knowsub.config import load_params
from knowsub.tracking import stage_run
params = load_params([sys.argv[1]], path=sys.argv[2])
with stage_run(sys.argv[3], params) as run:
    for step in range(20):
        run.metrics({"loss": step}, step=step)
    Path(sys.argv[3] + ".ready").touch()
    time.sleep(float(sys.argv[4]))
"""


def start(
    params: Params, stage: str, seconds: float, where: Path, delay: float = 99.0
) -> subprocess.Popen[bytes]:
    seeds = f"seeds=[{','.join(map(str, params.seeds))}]"
    given = [seeds, str(ROOT / "params.yaml"), stage, str(seconds)]
    environment = os.environ | {"KNOWSUB_SEND_AFTER": str(delay)}
    command = [sys.executable, "-c", STAGE_CODE, *given]
    return subprocess.Popen(command, cwd=where, env=environment)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("delay", [0.0, 99.0])
def test_a_killed_stage_is_closed_as_killed_whether_it_had_sent_something_or_not(
    make: Callable[[], Params], folder: Path, delay: float
) -> None:
    params = make()
    (folder / "analyze.ready").unlink(missing_ok=True)
    process = start(params, "analyze", 60, folder, delay)
    wait_for(folder / "analyze.ready")
    if not delay:
        wait_for_runs(experiment(params), 1)
    process.kill()
    process.wait()
    whole, stages = runs(experiment(params))
    assert [run.info.status for run in whole + stages] == ["KILLED", "KILLED"]
    assert stages[0].data.metrics == {"loss": 19.0}


def test_the_next_stage_sends_what_a_killed_one_left(
    make: Callable[[], Params], folder: Path, at_once: None
) -> None:
    params = make()
    (folder / "analyze.ready").unlink(missing_ok=True)
    process = start(params, "analyze", 60, folder)
    wait_for(folder / "analyze.ready")
    process.kill()
    process.wait()
    current = experiment(params)
    with stage_run("report", params):
        wait_for_runs(current, 2)
        deadline = time.monotonic() + 300.0
        while len(list(current.spool.glob(f"{current.key[:16]}-*.jsonl"))) > 1:
            assert time.monotonic() < deadline, "the killed stage is not sent"
            time.sleep(0.1)
    _, stages = runs(current)
    found = {run.data.tags[STAGE]: run.info.status for run in stages}
    assert found == {"analyze": "KILLED", "report": "FINISHED"}


def test_a_curve_can_be_seen_while_its_stage_works_and_is_not_doubled(
    make: Callable[[], Params], at_once: None
) -> None:
    params = make()
    current = experiment(params)
    with stage_run("train", params, ITEMS) as run:
        run.metrics({"loss": 1.0}, step=1)
        wait_for_runs(current, 1)
        run.metrics({"loss": 2.0}, step=2)
        deadline = time.monotonic() + 300.0
        while (live := runs_in(current))[0].data.metrics.get("loss") != 2.0:
            assert time.monotonic() < deadline, "the second value is not sent"
            time.sleep(0.1)
        assert live[0].info.status == "RUNNING"
    _, stages = runs(current)
    assert [run.info.status for run in stages] == ["FINISHED"]
    history = client(current).get_metric_history(stages[0].info.run_id, "loss")
    assert [point.value for point in history] == [1.0, 2.0]


def test_a_stage_that_fails_is_shown_without_another_one_after_it(
    make: Callable[[], Params], folder: Path
) -> None:
    params = make()

    def stage() -> None:
        with stage_run("train", params, ITEMS):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stage()
    assert [run.info.status for run in runs_in(experiment(params))] == ["FAILED"]


@pytest.mark.slow
def test_a_store_that_is_deleted_between_two_stages_is_made_anew(
    make: Callable[[], Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = make()
    process = start(params, "prepare", 60, tmp_path, 0.0)
    wait_for(tmp_path / "mlflow" / "mlflow.db")
    shutil.rmtree(tmp_path / "mlflow")
    with stage_run("analyze", params) as run:
        run.metrics({"loss": 1.0})
    process.terminate()
    process.wait()
    whole, stages = runs(experiment(params))
    assert len(whole) == 1
    assert [run.data.tags[STAGE] for run in stages] == ["analyze"]
    assert stages[0].data.metrics == {"loss": 1.0}


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 99.0])
def test_four_processes_may_start_on_a_store_that_is_not_there_yet(
    make: Callable[[], Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delay: float
) -> None:
    params = make()
    monkeypatch.chdir(tmp_path)
    stages = ("prepare", "pretrain", "verbalize", "analyze")
    started = [start(params, stage, 0.5, tmp_path, delay) for stage in stages]
    assert [process.wait() for process in started] == [0, 0, 0, 0]
    whole, found = runs(experiment(params))
    assert len(whole) == 1
    assert sorted(run.data.tags[STAGE] for run in found) == sorted(stages)
    assert {run.info.status for run in found} == {"FINISHED"}
    assert {run.data.metrics["loss"] for run in found} == {19.0}


@pytest.mark.slow
def test_a_store_out_of_reach_fails_no_stage_and_ends_track_in_one_line(
    make: Callable[[], Params],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    at_once: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    params = make()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with stage_run("prepare", params):
        time.sleep(1.0)
    assert (
        "not in MLflow yet, the stage track tries again: http://127.0.0.1:9: cannot be wr"
        in caplog.text
    )
    with pytest.raises(ValueError, match=r"^http://127.0.0.1:9: cannot be written to: .*"):
        send_all(experiment(params))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:8")
    outputs(params, tmp_path)
    shutil.rmtree(tmp_path / "mlflow")
    begin = time.monotonic()
    with pytest.raises(ValueError, match=r"^http://127.0.0.1:8: cannot be written to: .*"):
        fill_experiment(params, tmp_path)
    assert "http://127.0.0.1:8 does not answer" in caplog.text
    assert "waiting for up to 31 s" in caplog.text, "one attempt of 30 s, and a second between"
    assert time.monotonic() - begin < 20


@pytest.mark.slow
def test_a_deleted_mlflow_experiment_is_told_with_what_restores_it(
    make: Callable[[], Params], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    params = make()
    outputs(params, tmp_path)
    fill_experiment(params, tmp_path)
    store = client(experiment(params))
    group = store.get_experiment_by_name("knowsub")
    assert group is not None
    store.delete_experiment(group.experiment_id)
    with stage_run("prepare", params):
        pass
    line = r"'knowsub' is deleted; `mlflow experiments restore --experiment-id 1`"
    with pytest.raises(ValueError, match=line):
        fill_experiment(params, tmp_path)
    store.restore_experiment(group.experiment_id)
    fill_experiment(params, tmp_path)
    assert "prepare" in {run.data.tags[STAGE] for run in runs(experiment(params))[1]}


@pytest.mark.slow
def test_a_copied_checkout_writes_into_its_own_folder(
    make: Callable[[], Params], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    params = make()
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    monkeypatch.chdir(first)
    outputs(params, tmp_path)
    fill_experiment(params, tmp_path)
    shutil.copytree(first, second)
    shutil.rmtree(first)
    monkeypatch.chdir(second)
    code = "import pathlib, sys; from knowsub.config import load_params as load"
    code += "; from knowsub.tracking import fill_experiment as fill"
    code += "; fill(load([sys.argv[1]], path=sys.argv[2]), pathlib.Path(sys.argv[3]))"
    given = [f"seeds=[0,{params.seeds[1]}]", str(ROOT / "params.yaml"), str(tmp_path)]
    subprocess.run([sys.executable, "-c", code, *given], check=True)
    assert not first.exists()
    whole, _ = runs(experiment(params))
    assert whole[0].info.artifact_uri.startswith(second.as_uri())
    assert list(second.rglob("summary.json"))


def outputs(params: Params, data: Path) -> None:
    """Write what the stages would have written, as far as the tracker reads it."""
    masks = [
        {"target": target, "seed": seed, "sparsity": 0.98, "target_ppl_ratio": 100.0 + place}
        for place, (target, seed) in enumerate(
            (target, seed) for target in params.targets for seed in params.seeds
        )
    ]
    (data / "report" / "figures").mkdir(parents=True)
    summary = {"masks": masks, "mean": {"sparsity": 0.98, "target_ppl_ratio": 100.123456}}
    (data / "report" / "summary.json").write_text(json.dumps(summary))
    (data / "report" / "report.html").write_text("<html></html>")
    (data / "report" / "figures" / "curve.png").write_bytes(b"png")
    train = data / "train" / "building.n.01-0"
    train.mkdir(parents=True)
    (train / "curve.csv").write_text("step,loss,kind\n0,2.0,a\n10,1.0,b\n")
    (train / "training.json").write_text(json.dumps({"chosen": {"step": 10}, "rule": "x"}))


def test_an_experiment_completed_by_several_at_once_is_whole_and_there_once(
    make: Callable[[], Params], tmp_path: Path
) -> None:
    params = make()
    outputs(params, tmp_path)
    with ThreadPoolExecutor(4) as pool:
        keys = list(pool.map(lambda _: fill_experiment(params, tmp_path)[0], range(4)))
    assert len(set(keys)) == 1
    whole, stages = runs(experiment(params))
    assert [run.info.status for run in whole] == ["FINISHED"]
    names = [run.info.run_name for run in stages]
    assert len(names) == len(set(names))
    assert whole[0].data.metrics["mean/sparsity"] == 0.98


def test_the_experiment_gets_the_figures_of_all_masks_and_the_stages_of_the_cache(
    make: Callable[[], Params], tmp_path: Path
) -> None:
    params = make()
    outputs(params, tmp_path)
    with stage_run("report", params) as run:
        run.metrics({"pages": 1.0})
    current = experiment(params)
    for _ in range(2):
        key, place = fill_experiment(params, tmp_path)
        assert key == current.key
        assert place.startswith("#/experiments/1/runs?viewStateShareKey=headline")
        whole, stages = runs(current)
        assert [run.info.status for run in whole] == ["FINISHED"]
        sources = {(run.data.tags[STAGE], run.data.tags[ITEM]): run for run in stages}
        assert len(stages) == len(sources) == 2
        assert sources["report", ""].data.tags[SOURCE] == "run"
        cached = sources["train", "building.n.01-0"]
        assert cached.data.tags[SOURCE] == "dvc-cache"
        assert cached.data.metrics == {"loss": 1.0, "chosen/step": 10.0}
    figures = whole[0].data.metrics
    assert figures["per_mask/building.n.01-0/target_ppl_ratio"] == 100.0
    assert figures["mean/sparsity"] == 0.98
    assert figures["mean/target_ppl_ratio"] == 100.12
    assert whole[0].data.params["train.steps"] == str(params.train.steps)
    assert not any(name.startswith(("machine.", "track.")) for name in whole[0].data.params)
    stored = client(current).list_artifacts(whole[0].info.run_id)
    assert [one.path for one in stored] == ["figures", "report.html", "summary.json"]


def test_the_headline_figures_are_those_of_the_summary_to_five_digits() -> None:
    masks = [
        {"target": "a", "seed": 0, "x": 1.23456789, "y": None},
        {"target": "a", "seed": 1, "x": 3.0, "y": 5.0, "name": "text", "flag": True},
    ]
    assert headline({"masks": masks, "mean": {"x": 123456.7, "y": 5.0}}) == {
        "mean/x": 123460.0,
        "mean/y": 5.0,
        "per_mask/a-0/x": 1.2346,
        "per_mask/a-1/x": 3.0,
        "per_mask/a-1/y": 5.0,
    }


def test_the_run_list_has_a_saved_view_whose_columns_exist(
    make: Callable[[], Params], tmp_path: Path
) -> None:
    params = make()
    outputs(params, tmp_path)
    fill_experiment(params, tmp_path)
    current = experiment(params)
    group = client(current).get_experiment_by_name(current.name)
    assert group is not None
    view = json.loads(group.tags["mlflow.sharedViewState.headline"])
    assert view["selectedColumns"] == [f"metrics.`mean/{name}`" for name in METRIC_COLUMNS] + [
        f"params.`{name}`" for name in PARAM_COLUMNS
    ]
    assert set(PARAM_COLUMNS) <= set(current.values)
    assert set(METRIC_COLUMNS) <= set(METRIC_SPECS)
    assert view_path(group.experiment_id) in group.tags["mlflow.note.content"]
    found = client(current).search_runs([group.experiment_id], view["searchFilter"])
    assert {run.data.tags[KIND] for run in found} == {"experiment"}


@pytest.mark.parametrize("content", ["[]", "{}", '{"masks": 3}'])
def test_a_summary_without_masks_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "summary.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="holds no list of masks"):
        read_summary(path)


def test_a_missing_summary_says_who_writes_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="the stage report writes it"):
        read_summary(tmp_path / "summary.json")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open MLflow's pages with")
def test_mlflows_pages_show_experiments_in_a_list_and_two_of_them_side_by_side(
    make: Callable[[], Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seeds = []
    for name in ("calm-otter", "wild-heron"):
        monkeypatch.setenv("DVC_EXP_NAME", name)
        params = make()
        seeds.append(str(params.seeds[1]))
        outputs(params, tmp_path / name)
        fill_experiment(params, tmp_path / name)
    with ui(tmp_path) as address, browser(tmp_path / "profile") as page:
        listed = open_list(page, address, tmp_path)
        compared = open_comparison(page, address, tmp_path, ("calm-otter", "wild-heron"))
    for text in (listed, compared):
        for word in ("mean/sparsity", "0.98", "mean/target_ppl_ratio", "train.lr", *seeds):
            assert word in text
    assert "2 matching runs" in " ".join(listed.split())
    assert "100.12" in listed
    assert {"prepare.control_facts", "pretrain.steps"} <= set(compared.split())
