"""One of two processes of a search is killed: all end, and the search goes on from where it was."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.pipeline.conftest import Repository
from tests.torture.bad_input import TARGET
from tests.torture.ground import Ground, Outcome

LIMIT = 60.0
"""Time in which all processes must have ended [s]."""
ARGUMENTS = ("stages.train", TARGET, "0")


def distributed(ground: Ground) -> list[Outcome]:
    """Kill each of two processes; go on with one and with two."""
    outcome = Outcome(
        "One of 2 processes of a search killed: all end within a minute; the same mask"
    )
    clone = ground.copy("distributed")
    clone.set(
        train={"steps": 120, "checkpoint_every": 10, "evaluate_every": 60, "grad_accumulation": 2}
    )
    done = clone.run(sys.executable, "-m", *ARGUMENTS, "-q")
    assert done.returncode == 0, done.stderr
    folder = clone.folder / f"data/train/{TARGET}-0"
    whole = results(folder)
    for rank, processes in ((1, 1), (0, 2)):
        shutil.rmtree(folder)
        shutil.rmtree(clone.folder / ".checkpoints", ignore_errors=True)
        fault = killed(clone, rank)
        if not fault:
            command = [sys.executable, "-m", *ARGUMENTS, "-q"]
            done = clone.run(*(command if processes == 1 else launcher()))
            found = results(folder)
            if found != whole:
                differing = sorted(name for name in whole if found.get(name) != whole[name])
                fault = f"{differing} differ; status {done.returncode}: {done.stderr[-300:]}"
        outcome.check(not fault, f"process {rank} killed, on with {processes}: {fault}")
    outcome.note = "by `torchrun`, on CPU"
    return [outcome]


def results(folder: Path) -> dict[str, object]:
    """Return the files of a search: the curve by its figures, the others by their bytes."""
    found: dict[str, object] = {}
    for path in folder.glob("*"):
        found[path.name] = path.read_bytes()
        if path.suffix == ".csv":  # a search that went on writes the columns in another order
            with path.open(newline="", encoding="utf-8") as file:
                found[path.name] = list(csv.DictReader(file))
    return found


def launcher() -> list[str]:
    """Return the command that runs the search in two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    torchrun = ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    return [sys.executable, "-m", *torchrun, "-m", *ARGUMENTS, "-q"]


def killed(clone: Repository, rank: int) -> str:
    """Start two processes and kill one once there is a checkpoint; return what was wrong."""
    log = clone.folder.parent / "distributed.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            launcher(), cwd=clone.folder, env=clone.environment, stdout=out, stderr=out
        )
        checkpoints = clone.folder / ".checkpoints"
        while process.poll() is None and not list(checkpoints.glob("*/step-*.safetensors")):
            time.sleep(0.02)
        workers = workers_of(process.pid)
        if set(workers) != {0, 1}:
            process.kill()
            return f"processes {workers}: {log.read_text()[-500:]}"
        os.kill(workers[rank], signal.SIGKILL)
        begin = time.monotonic()
        with suppress(subprocess.TimeoutExpired):
            process.wait(LIMIT)
    alive = [one for one in workers.values() if Path(f"/proc/{one}/cmdline").is_file()]
    seconds, said = time.monotonic() - begin, log.read_text()
    if process.poll() is None or alive:
        process.kill()
        return f"still there after {seconds:.0f} s: {alive}"
    clear = "another process of this search has ended", "SIGKILL", "exitcode  : -9"
    if process.returncode == 0 or not any(words in said for words in clear):
        return f"no clear message: {said[-500:]}"
    kept = list(checkpoints.glob("*/step-*.safetensors"))
    return "" if kept else "no checkpoint is left"


def workers_of(launched: int) -> dict[int, int]:
    """Return the processes that a launcher has started, by their rank."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (entry / "environ").read_bytes().split(b"\0")
            ranks = [one[5:] for one in variables if one.startswith(b"RANK=")]
            if parent == launched and ranks:
                found[int(ranks[0])] = int(entry.name)
    return found
