from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from knowsub.config import Params, load_params
from knowsub.repro import Job, cluster, main, processes, reproduce

PIPELINE = """
stages:
  verbalize:
    cmd: echo facts > facts
    outs: [facts]
  retain:
    cmd: cp facts retain
    deps: [facts]
    outs: [retain]
  train:
    matrix: {target: [a, b], seed: [0, 1]}
    cmd: python record.py ${item.target}-${item.seed}
    deps: [facts, record.py]
    outs: ["train-${item.target}-${item.seed}"]
  baseline:
    matrix: {target: [a, b], seed: [0, 1]}
    cmd: cp train-${item.target}-${item.seed} base-${item.target}-${item.seed}
    deps: ["train-${item.target}-${item.seed}", facts]
    outs: ["base-${item.target}-${item.seed}"]
  test:
    matrix: {target: [a, b], seed: [0, 1]}
    cmd: cp base-${item.target}-${item.seed} test-${item.target}-${item.seed}
    deps: ["base-${item.target}-${item.seed}", retain]
    outs: ["test-${item.target}-${item.seed}"]
  finetune:
    matrix: {target: [a, b], seed: [0, 1]}
    cmd: cp train-${item.target}-${item.seed} fine-${item.target}-${item.seed}
    deps: ["train-${item.target}-${item.seed}"]
    outs: ["fine-${item.target}-${item.seed}"]
  report:
    cmd: cat test-a-0 test-a-1 test-b-0 test-b-1 > report
    deps: [test-a-0, test-a-1, test-b-0, test-b-1]
    outs: [report]
"""
RECORD = """
import sys, time
item, begun = sys.argv[1], time.time()
if item == "b-1":
    {trouble}
time.sleep(2)
open("train-" + item, "w").write(f"{{item}} {{begun}} {{time.time()}}\\n")
"""


def project(folder: Path, trouble: str = "pass") -> Params:
    params = replace(load_params(), targets=["a", "b"], seeds=[0, 1])
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "record.py").write_text(RECORD.format(trouble=trouble))
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], cwd=folder)
    return params


def spans(folder: Path) -> dict[str, tuple[float, float]]:
    rows = [line.split() for line in (folder / "report").read_text().splitlines()]
    return {item: (float(begun), float(ended)) for item, begun, ended in rows}


@pytest.mark.slow
def test_chains_run_side_by_side_and_the_whole_pipeline_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    params = project(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert reproduce(params, processes(2)) == 0
    ran = sorted(spans(tmp_path).values())
    assert any(later[0] < earlier[1] for earlier, later in pairwise(ran))
    assert all((tmp_path / f"fine-{item}").is_file() for item in ("a-0", "a-1", "b-0", "b-1"))
    assert "a-0 | Running stage 'train@a-0':" in capfd.readouterr().out
    assert reproduce(params, processes(2)) == 0
    assert "Running" not in capfd.readouterr().out


@pytest.mark.slow
def test_a_stage_that_fails_beside_others_fails_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = project(tmp_path, "sys.exit('no room')")
    monkeypatch.chdir(tmp_path)
    assert reproduce(params, processes(2)) != 0
    assert (tmp_path / "test-a-1").is_file()
    assert not (tmp_path / "report").exists()


@pytest.mark.slow
def test_a_mistake_before_the_chains_stops_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = project(tmp_path)
    (tmp_path / "dvc.yaml").write_text(PIPELINE.replace("echo facts > facts", "exit 3"))
    monkeypatch.chdir(tmp_path)
    assert reproduce(params, processes(2)) != 0
    assert not list(tmp_path.glob("train-*"))


def _dvc_lock(folder: Path) -> dict[str, object]:
    """Return `dvc.lock` without what differs from run to run: the times that chains write."""
    stages: dict[str, Any] = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    return {name: stage["cmd"] for name, stage in stages.items()}


@pytest.mark.slow
def test_chains_as_jobs_of_a_cluster_end_with_the_same_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("submitit")
    folders = [tmp_path / "jobs", tmp_path / "processes"]
    for folder in folders:
        folder.mkdir()
    for folder, params in [(folder, project(folder)) for folder in folders]:
        monkeypatch.chdir(folder)
        run = cluster("local", {"timeout_min": 10}) if folder.name == "jobs" else processes(2)
        assert reproduce(params, run) == 0
    said = capfd.readouterr().out
    assert all(f"{item} | done" in said for item in ("common", "a-0", "a-1", "b-0", "b-1", "rest"))
    assert _dvc_lock(folders[0]) == _dvc_lock(folders[1])
    ran = sorted(spans(folders[0]).values())
    assert any(later[0] < earlier[1] for earlier, later in pairwise(ran))


@pytest.mark.slow
def test_a_chain_that_fails_on_a_cluster_is_named_and_the_rest_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("submitit")
    params = project(tmp_path, "sys.exit('no room')")
    monkeypatch.chdir(tmp_path)
    assert reproduce(params, cluster("local", {"timeout_min": 10})) != 0
    said = capfd.readouterr().out
    assert "b-1 | failed; see " in said
    assert "a-1 | done" in said
    assert "rest | " not in said


@pytest.mark.slow
def test_a_job_that_runs_out_of_time_is_submitted_again(tmp_path: Path) -> None:
    submitit = pytest.importorskip("submitit")
    code = "import pathlib, sys, time; p = pathlib.Path(sys.argv[1]); n = len(list(p.iterdir()))"
    code += "; (p / str(n)).touch(); time.sleep(0 if n else 100)"
    begun = tmp_path / "begun"
    begun.mkdir()
    executor = submitit.LocalExecutor(tmp_path / "logs", max_num_timeout=3)
    executor.update_parameters(timeout_min=2, signal_delay_s=90)  # it is told after 30 s
    job = executor.submit(Job([sys.executable, "-c", code, str(begun)]))
    assert job.result() == 0
    assert len(list(begun.iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--launcher", "local", "--set", "gpus"], "--set gpus: should be NAME=VALUE"),
        (["--launcher", "local", "--set", "colour=red"], "--launcher local: "),
        (["--launcher", "slurm"], "--launcher slurm: "),
    ],
)
def test_a_setting_that_no_cluster_has_is_refused_in_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("submitit")
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith(said)
    assert error.count("\n") == 1
