"""What a stage says while it works: bars on a terminal, lines elsewhere, as much as asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import redirect_stderr
from itertools import count
from pathlib import Path

import pytest
from tqdm import tqdm

from knowsub.progress import LINE, Lines, with_progress

ROOT = Path(__file__).parents[1]
STAGE = """
import time
from knowsub.config import load_params, stage_main

def main() -> str:
    load_params()
    from tqdm import tqdm

    for _ in tqdm(range(40), desc="search", unit="step"):
        time.sleep(0.005)
    return "found"

stage_main(main)
"""


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bar_in_a_file_is_a_line_every_ten_seconds_and_a_last_one(tmp_path: Path) -> None:
    path, clock = tmp_path / "log", Clock()
    with (
        path.open("w") as out,
        tqdm(
            total=30, desc="search", file=Lines(out, clock=clock), mininterval=0, bar_format=LINE
        ) as bar,
    ):
        for second in range(30):
            clock.now = float(second)
            bar.set_postfix(loss=second, refresh=False)
            bar.update()
    lines = path.read_bytes().decode().split("\n")[:-1]
    assert "\r" not in "".join(lines)
    assert [line.partition(", 00:")[0] for line in lines] == [
        "search: 37 %, 11/30",
        "search: 70 %, 21/30",
        "search: 100 %, 30/30",
    ]
    assert lines[0].endswith("loss=10")


def test_what_is_no_bar_passes_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("w") as out:
        stream = Lines(out)
        stream.write("a warning\n")
        stream.write("\rsearch: 1 %")
        stream.write("another\n")
    assert path.read_text() == "a warning\nanother\n"


def test_work_within_work_is_not_shown_and_moves_no_cursor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knowsub.progress.DELAY", 0.0)
    every_time_later = count(0.0, 20.0)
    stream = (tmp_path / "log").open("w+")
    with stream as log, redirect_stderr(Lines(log, every_time_later.__next__)):
        with tqdm(total=1, desc="stage", bar_format=LINE):
            assert [list(with_progress("ab", "inner")) for _ in with_progress([1, 2], "outer")]
        assert not list(with_progress([], "later"))
        log.seek(0)
        text = log.read()
    assert "outer" in text
    assert "inner" not in text
    assert "\x1b" not in text


def said(tmp_path: Path, *flags: str, **environment: str) -> str:
    (tmp_path / "sample.py").write_text(STAGE)
    done = subprocess.run(
        [sys.executable, "-m", "sample", *flags],
        cwd=ROOT,
        capture_output=True,
        check=True,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"} | environment,
    )
    assert done.stdout == b""
    return done.stderr.decode()


def test_a_stage_in_a_pipe_writes_whole_lines(tmp_path: Path) -> None:
    text = said(tmp_path)
    assert "\r" not in text
    bar, summary = text.split("\n")[:-1]
    assert bar.startswith("search: 100 %, 40/40, ")
    assert summary.startswith("sample: found (")


@pytest.mark.parametrize(("flag", "lines"), [("--quiet", 0), ("--verbose", 3)])
def test_a_stage_says_as_much_as_it_is_asked_to(tmp_path: Path, flag: str, lines: int) -> None:
    assert len(said(tmp_path, flag).split("\n")[:-1]) == lines
