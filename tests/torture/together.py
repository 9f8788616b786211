"""Several experiments at the same time: nothing lost, doubled or corrupted."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from tests.pipeline.conftest import Repository
from tests.torture.ground import Ground, Outcome, commit, differences, store_faults

WAIT = 1500.0
"""Time that the tasks of a queue may take in all [s]."""


def together(ground: Ground) -> list[Outcome]:
    """Run a queue on a cold cache, the pipeline beside it, and one experiment twice at once."""
    queued = Outcome(
        "4 queued experiments at once, cold cache and cold MLflow: all whole, each once"
    )
    beside = Outcome("`dvc repro` while the queue runs: as without it")
    twice = Outcome("One experiment twice at the same time: the same results, one run in MLflow")
    clone = ground.fresh("together")
    clone.said("exp", "run", "--queue", "-S", "report.max_control_facts=5,6,7,8")
    clone.said("queue", "start", "-j", "4")
    time.sleep(5)
    done = clone.run(sys.executable, "-m", "dvc", "repro")
    said = wait_for_queue(clone)
    for word in ("Queued", "Running", "Failed"):
        if word in said:
            queued.lost.append(said)
    queued.tried = said.count("Success")
    apart = differences(clone.folder, ground.whole().folder)
    beside.check(done.returncode == 0, done.stdout[-300:] + done.stderr[-300:])
    beside.check(not apart, f"{apart} differ")
    faults = store_faults(clone.folder, 5)
    queued.check(not faults, "; ".join(faults))
    commit(clone)
    masks = doubled(clone, twice)
    twice.check(len(masks) == 1, f"{len(masks)} different metrics")
    faults = store_faults(clone.folder, 6)
    twice.check(not faults, "; ".join(faults))
    return [queued, beside, twice]


def wait_for_queue(clone: Repository) -> str:
    """Wait until no task is left; return what DVC says of all."""
    deadline = time.monotonic() + WAIT
    while "Queued" in (said := clone.said("queue", "status")) or "Running" in said:
        if time.monotonic() > deadline:
            break
        time.sleep(3)
    return said


def doubled(clone: Repository, outcome: Outcome) -> set[str]:
    """Run one experiment twice at once; return the different metrics that came of it."""
    command = [sys.executable, "-m", "dvc", "exp", "run", "--temp", "-S", "train.lr=0.3"]
    logs = [clone.folder.parent / f"twice-{number}" for number in (0, 1)]
    started = []
    for log in logs:
        while started and "Running stage" not in logs[0].read_text() and started[0].poll() is None:
            time.sleep(0.1)  # DVC itself lets nobody else in while it copies the checkout
        with log.open("w") as out:
            started.append(
                subprocess.Popen(
                    command, cwd=clone.folder, env=clone.environment, stdout=out, stderr=out
                )
            )
    for process, log in zip(started, logs, strict=True):
        process.wait()
        well = process.returncode == 0 or "existing experiment" in log.read_text()
        outcome.check(well, log.read_text()[-400:])
    return figures(clone)


def figures(clone: Repository) -> set[str]:
    """Return the different mean metrics of the experiments that were run with another rate."""
    shown = json.loads(clone.said("exp", "show", "--json"))
    found = set()
    for baseline in shown:
        for experiment in baseline.get("experiments") or []:
            for rev in experiment.get("revs") or []:
                data = rev.get("data") or {}
                train = data.get("params", {}).get("params.yaml", {}).get("data", {}).get("train")
                metrics = data.get("metrics", {}).get(str(Path("data/report/summary.json")), {})
                if train and train.get("lr") == 0.3:
                    found.add(json.dumps(metrics.get("data", {}).get("mean"), sort_keys=True))
    return found
