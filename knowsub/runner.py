"""How a stage is run: arguments, threads, an exclusive lock, one-line errors."""

from __future__ import annotations

import argparse
import errno
import fcntl
import inspect
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from knowsub.progress import LINE, SECONDS, Lines

if TYPE_CHECKING:
    from knowsub.config import Machine

LENGTH = 1000
"""Length of an error message at most [characters]."""
LOCKS = Path(".checkpoints/locks")
"""Folder of the locks that keep two processes from doing the same work."""


def run_stage(main: Callable[..., object], machine: Callable[[], Machine]) -> None:
    """Run a stage's `main` with the arguments of the command line, and end the process.

    A mistake of the user, a full disk and a folder that is not writable end in one line on the
    standard error and status 1; a request to stop (SIGTERM, Ctrl-C) unwinds the stage, so that
    what it holds is closed, and ends in 143 or 130.

    Args:
        main: The stage; its positional parameters are those of the command line, converted to the
            types they are annotated with. What it returns, if text, is its summary line.
        machine: Reads the section of that name; a mistake in the file stops the stage here.

    Raises:
        SystemExit: If the stage failed, with its status.
    """
    spec = getattr(sys.modules.get(main.__module__), "__spec__", None)
    name = str(spec.name if spec else main.__module__).rpartition(".")[2]
    given = _arguments(main, name)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    begin, log = time.perf_counter(), logging.getLogger("knowsub")
    with report_errors(name):
        quiet, verbose = given.pop("quiet"), given.pop("verbose")
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        log.setLevel("WARNING" if quiet else "DEBUG" if verbose else "INFO")
        lines = set_environment(machine(), quiet, sys.stderr.isatty())
        log.debug("%s: %s threads", name, os.environ["OMP_NUM_THREADS"])
        shown = redirect_stderr(Lines(sys.stderr) if lines else sys.stderr)
        with exclusive_lock(" ".join([name, *map(str, given.values())])), shown:
            summary = main(*given.values())
    seconds = time.perf_counter() - begin
    words = [f"{name}:", *([summary] if isinstance(summary, str) else []), f"({seconds:.1f} s)"]
    log.info(" ".join(words))


def _arguments(main: Callable[..., object], name: str) -> dict[str, Any]:
    hints = get_type_hints(main)
    parser = argparse.ArgumentParser(f"python -m stages.{name}", description=inspect.getdoc(main))
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("-q", "--quiet", action="store_true", help="show errors alone")
    shown.add_argument("-v", "--verbose", action="store_true", help="show details")
    for parameter in inspect.signature(main).parameters.values():
        optional = parameter.default is not parameter.empty
        parser.add_argument(
            parameter.name,
            type=hints.get(parameter.name, str),
            nargs="?" if optional else None,
            default=parameter.default if optional else None,
        )
    return vars(parser.parse_args())


def set_environment(machine: Machine, quiet: bool, terminal: bool) -> bool:
    """Set what numerical libraries and progress bars read when they are imported.

    Args:
        machine: The section of that name.
        quiet: Whether progress is hidden.
        terminal: Whether the standard error is a terminal.

    Returns:
        Whether progress is to come as lines, which `Lines` makes of bars.
    """
    threads = machine.threads or os.cpu_count() or 1
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)
    # a thread that waits for another by spinning takes the core that the other one needs
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # what it warns of, a stage refuses
    if quiet or machine.progress == "none":
        os.environ["TQDM_DISABLE"] = "1"
        return False
    if machine.progress == "bar" or (terminal and machine.progress == "auto"):
        return False
    os.environ["TQDM_MININTERVAL"] = os.environ["TQDM_MAXINTERVAL"] = str(SECONDS)
    os.environ["TQDM_BAR_FORMAT"] = LINE
    return True


@contextmanager
def report_errors(name: str) -> Iterator[None]:
    """End the process with one line on the standard error where a stage cannot go on.

    Args:
        name: The stage.

    Yields:
        Nothing.

    Raises:
        SystemExit: With status 1; 130 if it was interrupted.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: interrupted\n")
        sys.exit(130)
    except Exception as error:
        line = mistake(error, name)
        if not line or os.environ.get("KNOWSUB_DEBUG") == "1":
            raise
        sys.stderr.write(f"{name}: {' '.join(line.split())[:LENGTH]}\n")
        sys.exit(1)


def mistake(error: Exception, name: str) -> str:
    """Return what a user is told of an error, or nothing if it is a mistake of the program.

    Args:
        error: What ended a stage.
        name: The stage.

    Returns:
        The error's own message; for a disk that is full or not writable, and for memory that does
        not suffice, what to do too.
    """
    said = str(error)
    if found := re.search(r"\(os error ([0-9]+)\)", said):  # of a library written in Rust
        error = OSError(int(found[1]), os.strerror(int(found[1])))
    if isinstance(error, OSError) and error.errno is not None:
        advice = {errno.EACCES: "; make it writable and run again"}
        advice |= {errno.ENOSPC: "; make room and run again: what was finished is kept"}
        advice |= {errno.EROFS: advice[errno.EACCES], errno.EDQUOT: advice[errno.ENOSPC]}
        place = error.filename2 or error.filename or f"written by {name} below {Path.cwd()}"
        return f"{place}: {error.strerror}{advice.get(error.errno, '')}"
    lacking = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in said
    if isinstance(error, MemoryError) or lacking:  # of Python, of a GPU, of torch on the CPU
        return (
            f"out of memory; lower the batches of section {name} in params.yaml, or raise "
            f"train.grad_accumulation ({said[:200]})"
        )
    return said if isinstance(error, ValueError | OSError) else ""


@contextmanager
def exclusive_lock(work: str) -> Iterator[None]:
    """Wait until no other process of this checkout does the same work, then keep others waiting.

    DVC that is killed leaves its stage running. When DVC is started again, the two stages would
    write the same files at the same time. Of the processes of one stage (`torchrun`) the first
    one waits for all.

    Args:
        work: The stage and its arguments.

    Yields:
        Nothing.

    Raises:
        OSError: If the lock cannot be written.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    path = LOCKS / f"{work.replace('/', '_')}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            other = file.read().strip()
            sys.stderr.write(f"{work}: waits for process {other}, which does the same\n")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
