"""`dvc repro`, with several targets and seeds at once.

    python -m knowsub.repro [--jobs 4]

DVC runs the stages of a pipeline one after the other. What is done per target and seed does not
depend on the other targets and seeds, though, so those chains run side by side here, each a
`dvc repro` of its own; a last plain `dvc repro` runs the rest, and whatever did not get through.
The results are those of `dvc repro` alone, bit for bit: a stage takes the same number of threads.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product

from knowsub.config import Params, load_params

CHAIN = ("train", "baseline", "test", "finetune")
"""The stages of one target and seed, in order."""
COMMON = ("verbalize", "retain")
"""Last stages that all chains need."""
_OUTPUT = threading.Lock()


def reproduce(params: Params, jobs: int) -> int:
    """Bring the whole pipeline up to date, with so many chains at once; return DVC's status."""
    if jobs > 1 and _dvc("status", "--quiet") != 0:
        if (status := _dvc("repro", *COMMON)) != 0:
            return status
        chains = [f"{target}-{seed}" for target, seed in product(params.targets, params.seeds)]
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(_chain, chains))
    return _dvc("repro")


def _dvc(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "dvc", *arguments], check=False).returncode


def _chain(item: str) -> None:
    """Run the stages of one target and seed; each line of output begins with its name.

    Stage by stage (`--single-item`): checking what all chains share would lock it for the others.
    """
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item"]
    command += [f"{stage}@{item}" for stage in CHAIN]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None, "it is a pipe"
        for line in process.stdout:
            if line.strip() and not line.rstrip().endswith("skipping"):
                with _OUTPUT:
                    sys.stdout.write(f"{item} | {line.rstrip()}\n")
                    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    """Run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m knowsub.repro", description=__doc__)
    meaning = "chains at once; 0, the default = as many as fit"
    parser.add_argument("--jobs", type=int, default=0, help=meaning)
    given = parser.parse_args(arguments)
    try:
        params = load_params()
    except (ValueError, FileNotFoundError) as mistake:
        sys.stderr.write(f"{mistake}\n")
        return 1
    cores = os.cpu_count() or 1
    return reproduce(params, given.jobs or max(1, cores // (params.machine.item_threads or cores)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
