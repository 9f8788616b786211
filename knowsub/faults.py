"""What a stage does on a machine that is shared, full or not writable: it waits or says why."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEBUG = "KNOWSUB_DEBUG"
"""Environment variable that shows the traceback of an error when set to 1."""
LENGTH = 1000
"""Length of a message at most [characters]."""
LOCKS = Path(".checkpoints/locks")
"""Folder of the locks that keep two processes from doing the same work."""
_ROOM = "; make room and run again: what was finished is kept"
_RIGHTS = "; make it writable and run again"
ADVICE = {errno.ENOSPC: _ROOM, errno.EDQUOT: _ROOM, errno.EACCES: _RIGHTS, errno.EROFS: _RIGHTS}
"""What to do, by the number of the system's error."""
MEMORY = "lower the batches of section {name} in params.yaml, or raise train.accumulate"
"""What to do where memory does not suffice."""
_SYSTEM = re.compile(r"\(os error ([0-9]+)\)")


@contextmanager
def one_line(name: str) -> Iterator[None]:
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
        if not line or os.environ.get(DEBUG) == "1":
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
    if found := _SYSTEM.search(said):  # libraries that are not Python's have errors of their own
        error = OSError(int(found[1]), os.strerror(int(found[1])))
    if isinstance(error, OSError) and error.errno is not None:
        place = error.filename2 or error.filename or f"written by {name} below {Path.cwd()}"
        return f"{place}: {error.strerror}{ADVICE.get(error.errno, '')}"
    lacking = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in said
    if isinstance(error, MemoryError) or lacking:  # of Python, of a GPU, of torch on the CPU
        return f"out of memory; {MEMORY.format(name=name)} ({said[:200]})"
    return said if isinstance(error, ValueError | OSError) else ""


@contextmanager
def alone(work: str) -> Iterator[None]:
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
