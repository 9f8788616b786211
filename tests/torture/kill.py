"""Kills the pipeline at random moments, runs it again, and compares with an undisturbed run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tests.pipeline.conftest import Repository
from tests.torture.ground import Ground, Outcome, differences, say, store_faults

KINDS = ("stage", "dvc", "group", "sending")
"""What is killed: the stage, DVC alone, DVC with its stage, and both while the stage sends what it
logs to MLflow, which a stage that short does not do by itself."""
KILLS = 30
"""Kills in all."""
STAGES = 2
"""Stages that are run to know how long one takes."""
WRITTEN = ("data/check", "data/prepare", "data/pretrain", "data/verbalize", "data/train")
WRITTEN += ("data/baseline", "data/test", "data/finetune", "data/analyze", "data/report")
WRITTEN += ("mlflow", ".checkpoints", ".dvc/cache", ".dvc/tmp")


def kill(ground: Ground) -> list[Outcome]:
    """Kill at random moments until enough was killed; the results are those of the whole run."""
    whole, clone = ground.whole(), ground.fresh("kill")
    begin = time.monotonic()
    clone.dvc("repro", "prepare")
    stage = (time.monotonic() - begin) / STAGES
    draw = random.Random(ground.seed)
    outcomes = {kind: Outcome(f"kill -9 of {_words(kind)}; run again") for kind in KINDS}
    moments: Counter[str] = Counter()
    plan = [KINDS[index % len(KINDS)] for index in range(ground.number(KILLS))]
    while plan:
        pending: list[str] = []
        while plan and (place := _disturbed(clone, draw, stage, plan[0])):
            say(f"killed {plan[0]} at {place}")
            moments[place] += 1
            pending.append(plan.pop(0))
        done = _repro(clone)
        output, status = done.communicate()[0], done.returncode
        faults = [] if status == 0 else [f"the run after the kill failed: {output[-400:]}"]
        faults += differences(clone.folder, whole.folder)
        faults += store_faults(clone.folder) if not status else []
        for kind in pending:
            outcomes[kind].check(not faults, "; ".join(faults))
        if plan:
            _wipe(clone)
    note = ", ".join(f"{place} {count}" for place, count in moments.most_common())
    outcomes["stage"].note = f"moments over all kinds: {note}"
    return list(outcomes.values())


def _words(kind: str) -> str:
    return {
        "stage": "the stage",
        "dvc": "`dvc` alone, its stage goes on",
        "group": "`dvc` and its stage",
        "sending": "`dvc` and its stage while it sends to MLflow",
    }[kind]


def _repro(clone: Repository) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=clone.folder,
        env=clone.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _disturbed(clone: Repository, draw: random.Random, stage: float, kind: str) -> str:
    """Start the pipeline and kill it at some moment; return what ran, nothing if it ended."""
    log = clone.folder.parent / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro"],
            cwd=clone.folder,
            env=clone.environment | ({"KNOWSUB_SEND_AFTER": "0"} if kind == "sending" else {}),
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        stages = _until(process, draw.choice((1, 1, 2, 3)), draw.uniform(0, stage))
        if process.poll() is not None:
            assert process.returncode == 0, log.read_text()[-2000:]
            return ""
        if kind == "stage" and stages:
            kill_one(next(iter(stages)))
        elif kind == "dvc":
            kill_one(process.pid)
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return next(iter(stages.values()), "between stages")


def _until(process: subprocess.Popen[bytes], count: int, delay: float) -> dict[int, str]:
    """Wait until so many stages have begun, and some time more; return those that run then."""
    seen: set[int] = set()
    while len(seen) < count and process.poll() is None:
        seen |= set(stages_of(process.pid))
        time.sleep(0.05)
    with suppress(subprocess.TimeoutExpired):
        process.wait(delay)
    return stages_of(process.pid)


def stages_of(group: int) -> dict[int, str]:
    """Return the stages that run in a process group: process -> name."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ProcessLookupError):
            command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            own = os.getpgid(int(entry.name)) == group
            names = [part for part in command if part.startswith(("stages.", "knowsub."))]
            if own and names and "-m" in command:
                found[int(entry.name)] = names[0].partition(".")[2]
    return found


def kill_one(process: int) -> None:
    """Kill a process if it is still there."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def _wipe(clone: Repository) -> None:
    """Delete everything that the pipeline has written."""
    for name in WRITTEN:
        shutil.rmtree(clone.folder / name, ignore_errors=True)
    (clone.folder / "dvc.lock").unlink(missing_ok=True)
    clone.run("git", "checkout", "-q", ".")
