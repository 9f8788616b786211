"""`dvc repro`, with several targets and seeds at once: as processes, or as jobs of a cluster.

    python -m knowsub.repro [--jobs 4]
    python -m knowsub.repro --launcher slurm --set gpus_per_node=1 --set timeout_min=480

DVC runs the stages of a pipeline one after the other. What is done per target and seed does not
depend on the other targets and seeds, though, so those chains run side by side here, each a
`dvc repro` of its own; a last plain `dvc repro` runs the rest, and whatever did not get through.
The results are those of `dvc repro` alone, bit for bit: a stage takes the same number of threads.

On a cluster all of it runs as jobs: what the chains share, the chains, the rest. The checkout has
to lie where every node sees it. A job that is preempted or runs out of time is submitted again,
and its search continues from the last checkpoint.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

from knowsub.config import Params, load_params
from knowsub.params_file import shorten

CHAIN = ("train", "baseline", "test", "finetune")
"""The stages of one target and seed, in order."""
COMMON = ("verbalize", "retain")
"""Last stages that all chains need."""
REPRO = (sys.executable, "-m", "dvc", "--wait-for-lock", "repro")
"""`dvc repro`, which waits while another command of DVC holds its lock."""
JOBS = Path(".cache/jobs")
"""Folder of what jobs of a cluster print, below the root of the checkout."""
TIMEOUTS = 100
"""How often a job that runs out of time is submitted again."""
_OUTPUT = threading.Lock()

Run = Callable[[Mapping[str, Sequence[str]]], list[int]]
"""Name -> command; runs them side by side, and returns their statuses."""


def reproduce(params: Params, run: Run) -> int:
    """Bring the whole pipeline up to date; return DVC's status.

    Args:
        params: The configuration; its targets and seeds have a chain each.
        run: Where commands run; see `processes` and `cluster`.

    Returns:
        0 if all went well. Where the chains are jobs that failed, the rest is not run.
    """
    if subprocess.run([sys.executable, "-m", "dvc", "status", "--quiet"], check=False).returncode:
        (status,) = run({"common": [*REPRO, *COMMON]})
        if status:
            return status
        items = [f"{target}-{seed}" for target, seed in product(params.targets, params.seeds)]
        if status := max(run({item: chain(item) for item in items})):
            return status
    (status,) = run({"rest": REPRO})
    return status


def chain(item: str) -> list[str]:
    """Return the command of one target and seed.

    Stage by stage (`--single-item`): checking what all chains share would lock it for the others.
    """
    return [*REPRO, "--single-item", *(f"{stage}@{item}" for stage in CHAIN)]


def processes(jobs: int) -> Run:
    """Return what runs so many commands at once on this machine.

    Where several are to run, each line of output begins with its name, and their statuses are left
    to the `dvc repro` that follows, which runs again what did not get through.
    """

    def run(commands: Mapping[str, Sequence[str]]) -> list[int]:
        if len(commands) == 1:
            return [
                subprocess.run(command, check=False).returncode for command in commands.values()
            ]
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(_labelled, commands, commands.values()))
        return [0]

    return run


def _labelled(name: str, command: Sequence[str]) -> None:
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None, "it is a pipe"
        for line in process.stdout:
            if line.strip() and not line.rstrip().endswith("skipping"):
                _say(f"{name} | {line.rstrip()}")


def _say(line: str) -> None:
    with _OUTPUT:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


class Job:
    """A command as a job of a cluster, which is submitted again if it was preempted."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)

    def __call__(self) -> int:
        """Run the command; return its status."""
        return subprocess.run(self.command, check=False).returncode

    def checkpoint(self) -> Any:
        """Return what is submitted in place of this: the same, as searches have checkpoints."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def cluster(name: str, settings: Mapping[str, Any]) -> Run:
    """Return what runs commands as jobs of a cluster.

    Args:
        name: `slurm`, or `local` to try the settings on this machine.
        settings: Of every job, as submitit names them: `timeout_min`, `gpus_per_node`,
            `cpus_per_task`, `mem_gb`, `slurm_partition`, ...

    Returns:
        A function that waits for all jobs; a job that ended without a status has 1.

    Raises:
        ValueError: If submitit is not installed, there is no such cluster, or it has no such
            setting.
    """
    try:
        import submitit
    except ImportError:
        raise ValueError("--launcher needs submitit: pip install 'knowsub[slurm]'") from None
    try:
        executor = submitit.AutoExecutor(
            JOBS, cluster=name, **{f"{name}_max_num_timeout": TIMEOUTS}
        )
        executor.update_parameters(**{"timeout_min": 480, **settings})
    except (RuntimeError, NameError, TypeError, ValueError, AssertionError) as error:
        said = shorten(" ".join(str(error).split()), 300)
        raise ValueError(f"--launcher {name}: {said}") from error

    def run(commands: Mapping[str, Sequence[str]]) -> list[int]:
        jobs = {}
        for label, command in commands.items():
            executor.update_parameters(name=f"knowsub-{label}")
            jobs[label] = executor.submit(Job(command))
            _say(f"{label} | job {jobs[label].job_id}: {jobs[label].paths.stdout}")
        return [_result(label, job) for label, job in jobs.items()]

    return run


def _result(name: str, job: Any) -> int:
    """Wait for a job; return its status, 1 if it ended without one."""
    import submitit

    try:
        status = int(job.result())
    except (submitit.core.utils.FailedJobError, submitit.core.utils.UncompletedJobError) as error:
        _say(f"{name} | {str(error).splitlines()[0]}")
        status = 1
    _say(f"{name} | {'done' if status == 0 else f'failed; see {job.paths.stderr}'}")
    return status


def main(arguments: Sequence[str]) -> int:
    """Run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m knowsub.repro", description=__doc__)
    meaning = "chains at once; 0, the default = as many as fit"
    parser.add_argument("--jobs", type=int, default=0, help=meaning)
    parser.add_argument(
        "--launcher", choices=["slurm", "local"], help="run all as jobs of a cluster"
    )
    meaning = "setting of the jobs, such as gpus_per_node=1 or slurm_partition=gpu; may be repeated"
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=meaning)
    given = parser.parse_args(arguments)
    try:
        params = load_params()
        run = cluster(given.launcher, _settings(given.set)) if given.launcher else None
    except (ValueError, FileNotFoundError) as mistake:
        sys.stderr.write(f"{mistake}\n")
        return 1
    cores = os.cpu_count() or 1
    jobs = given.jobs or max(1, cores // (params.machine.item_threads or cores))
    if jobs == 1 and not run:
        return subprocess.run(REPRO, check=False).returncode
    return reproduce(params, run or processes(jobs))


def _settings(given: Sequence[str]) -> dict[str, Any]:
    """Return the values of `name=value`, a number where it is one."""
    if wrong := [text for text in given if not text.partition("=")[2]]:
        raise ValueError(f"--set {wrong[0]}: should be NAME=VALUE")
    pairs = (text.split("=", 1) for text in given)
    return {name: int(value) if value.isdigit() else value for name, value in pairs}


if __name__ == "__main__":
    from knowsub.repro import main as run_main  # jobs are pickled, and `__main__` is another module

    sys.exit(run_main(sys.argv[1:]))
