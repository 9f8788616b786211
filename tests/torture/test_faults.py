"""A machine that is shared, full or that stops: what a stage says, and what it leaves."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from knowsub.artifacts import remove_stale_partials, write_checksummed
from knowsub.config import load_params
from knowsub.discovery.checkpoint import Checkpoints
from knowsub.runner import LENGTH, mistake
from knowsub.tracking import experiment, send_all, stage_run
from tests.pipeline.conftest import ROOT

STAGE = """
import time
from pathlib import Path
from knowsub.config import load_params, stage_main

def main(item: str) -> str:
    load_params()
    log = Path("log")
    log.open("a").write(f"begin {item}\\n")
    time.sleep(3.0)
    log.open("a").write(f"end {item}\\n")
    return "done"

stage_main(main)
"""
FULL = """
from knowsub.config import load_params, stage_main

def main() -> None:
    load_params()
    open("/dev/full", "w").write("x" * 100_000)

stage_main(main)
"""


def test_two_processes_of_one_search_may_delete_its_folder_under_each_other(tmp_path: Path) -> None:
    first, second = (Checkpoints(tmp_path / "store", "same") for _ in range(2))
    first.save(1, {"logits": torch.ones(3)}, {})
    second.clear()
    assert first.load() is None
    first.save(2, {"logits": torch.ones(3)}, {})
    assert second.load() is not None
    first.clear()
    first.clear()
    assert not (tmp_path / "store").exists()


def test_what_is_being_written_is_not_dropped(tmp_path: Path) -> None:
    dead, alive = tmp_path / "a.1.partial", tmp_path / "b.2.partial"
    dead.write_bytes(b"half")
    with alive.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        remove_stale_partials(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["b.2.partial"]
    remove_stale_partials(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_deleted_by_another_process_is_made_again(tmp_path: Path) -> None:
    folder, written = tmp_path / "store", threading.Event()

    def delete() -> None:
        while not written.is_set():
            shutil.rmtree(folder, ignore_errors=True)
            time.sleep(0.05)

    other = threading.Thread(target=delete)
    other.start()
    for number in range(100):
        write_checksummed(folder / f"{number}", {"x": np.zeros(3)}, {})
    written.set()
    other.join()
    write_checksummed(folder / "last", {"x": np.ones(3)}, {})
    assert [one.name for one in folder.glob("*last*")] == ["last"]


def test_a_checksummed_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.mkdir()
    with pytest.raises(OSError, match="file'"):
        write_checksummed(path, {"x": np.zeros(3)}, {})
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_and_missing_memory_are_told_with_what_to_do() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "data/x")
    assert mistake(full, "train") == (
        "data/x: No space left on device; make room and run again: what was finished is kept"
    )
    rust = SafetensorError("I/O error: No space left on device (os error 28)")
    assert "No space left on device; make room" in mistake(rust, "pretrain")
    assert "batches of section train" in mistake(MemoryError("8 GiB"), "train")
    lacking = RuntimeError(
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    )
    assert "out of memory; lower the batches of section test" in mistake(lacking, "test")
    assert mistake(RuntimeError("a mistake of the program"), "train") == ""


def run_stage(folder: Path, text: str, *arguments: str) -> subprocess.Popen[str]:
    module = folder / "sample.py"
    module.write_text(text)
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    return subprocess.Popen(
        [sys.executable, "-m", "sample", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_stage_on_a_full_disk_ends_in_one_line(tmp_path: Path) -> None:
    process = run_stage(tmp_path, FULL)
    said = process.communicate()[1]
    assert process.returncode == 1
    assert len(said.splitlines()) == 1
    assert len(said) <= LENGTH + 20
    assert "No space left on device; make room and run again" in said


@pytest.mark.slow
def test_a_stage_waits_for_another_process_that_does_the_same_and_not_for_others(
    tmp_path: Path,
) -> None:
    first = run_stage(tmp_path, STAGE, "a")
    log = tmp_path / "log"
    while not log.is_file() or not log.read_text():
        time.sleep(0.05)
        assert first.poll() is None
    second = run_stage(tmp_path, STAGE, "a")
    said = [process.communicate()[1] for process in (first, second)]
    assert f"sample a: waits for process {first.pid}, which does the same" in said[1]
    assert log.read_text().split("\n")[:4] == ["begin a", "end a"] * 2
    killed = run_stage(tmp_path, STAGE, "b")
    killed.kill()
    killed.communicate()
    again = run_stage(tmp_path, STAGE, "b")
    assert "waits" not in again.communicate()[1]


@pytest.mark.slow
def test_a_log_that_was_damaged_is_set_aside_and_the_others_are_written(tmp_path: Path) -> None:
    os.environ["DVC_ROOT"] = str(tmp_path)
    try:
        params = load_params()
        current = experiment(params)
        folder = current.spool
        folder.mkdir(parents=True)
        empty, half = folder / f"{current.key[:16]}-0-1.jsonl", folder / "other-0-1.jsonl"
        empty.write_text("")
        half.write_text(json.dumps({"experiment": "none"})[:9] + "\n")
        with stage_run("prepare", params) as run:
            run.metrics({"facts": 1})
        send_all(current)
    finally:
        del os.environ["DVC_ROOT"]
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    assert names == [f"{current.key[:16]}-0-1.damaged", "other-0-1.damaged"]
