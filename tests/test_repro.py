from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from knowsub.config import Params, load_params
from knowsub.repro import reproduce

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
    assert reproduce(params, jobs=2) == 0
    ran = sorted(spans(tmp_path).values())
    assert any(later[0] < earlier[1] for earlier, later in pairwise(ran))
    assert all((tmp_path / f"fine-{item}").is_file() for item in ("a-0", "a-1", "b-0", "b-1"))
    assert "a-0 | Running stage 'train@a-0':" in capfd.readouterr().out
    assert reproduce(params, jobs=2) == 0
    assert "Running" not in capfd.readouterr().out


@pytest.mark.slow
def test_a_stage_that_fails_beside_others_fails_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = project(tmp_path, "sys.exit('no room')")
    monkeypatch.chdir(tmp_path)
    assert reproduce(params, jobs=2) != 0
    assert (tmp_path / "test-a-1").is_file()
    assert not (tmp_path / "report").exists()


@pytest.mark.slow
def test_a_mistake_before_the_chains_stops_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = project(tmp_path)
    (tmp_path / "dvc.yaml").write_text(PIPELINE.replace("echo facts > facts", "exit 3"))
    monkeypatch.chdir(tmp_path)
    assert reproduce(params, jobs=2) != 0
    assert not list(tmp_path.glob("train-*"))
