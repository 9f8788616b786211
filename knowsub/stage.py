"""How a stage is run from the command line: arguments, threads, progress, one-line errors."""

from __future__ import annotations

import argparse
import inspect
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    from knowsub.schema import Machine

DEBUG = "KNOWSUB_DEBUG"
"""Environment variable that shows the traceback of an error when set to 1."""


def run_stage(main: Callable[..., object], machine: Callable[[], Machine]) -> None:
    """Run a stage's `main` with the arguments of the command line, and end the process.

    A mistake of the user ends in one line on the standard error and status 1; a request to stop
    (SIGTERM, Ctrl-C) unwinds the stage, so that what it holds is closed, and ends in 143 or 130.

    Args:
        main: The stage; its positional parameters are those of the command line, converted to the
            types they are annotated with. What it returns, if text, is its summary line.
        machine: Reads the section of that name; a mistake in the file stops the stage here.

    Raises:
        SystemExit: If the stage failed, with its status.
    """
    name = _name(main)
    given = _arguments(main, name)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    begin = time.perf_counter()
    try:
        quiet = given.pop("quiet")
        _set_up_logging(quiet, given.pop("verbose"))
        set_environment(machine(), quiet, sys.stderr.isatty())
        summary = main(*given.values())
    except (ValueError, FileNotFoundError) as error:
        if os.environ.get(DEBUG) == "1":
            raise
        sys.stderr.write(f"{name}: {' '.join(str(error).split())}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: interrupted\n")
        sys.exit(130)
    seconds = time.perf_counter() - begin
    words = [f"{name}:", *([summary] if isinstance(summary, str) else []), f"({seconds:.1f} s)"]
    logging.getLogger("knowsub").info(" ".join(words))


def _name(main: Callable[..., object]) -> str:
    spec = getattr(sys.modules.get(main.__module__), "__spec__", None)
    return str(spec.name if spec else main.__module__).rpartition(".")[2]


def _arguments(main: Callable[..., object], name: str) -> dict[str, Any]:
    hints = get_type_hints(main)
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{name}", description=inspect.getdoc(main)
    )
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


def _set_up_logging(quiet: bool, verbose: bool) -> None:
    level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("knowsub").setLevel(level)


def set_environment(machine: Machine, quiet: bool, terminal: bool) -> None:
    """Set what numerical libraries and progress bars read when they are imported.

    Args:
        machine: The section of that name.
        quiet: Whether progress is hidden.
        terminal: Whether the standard error is a terminal.
    """
    threads = machine.threads or os.cpu_count() or 1
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if quiet or machine.progress == "none":
        os.environ["TQDM_DISABLE"] = "1"
    elif machine.progress == "lines" or not (terminal or machine.progress == "bar"):
        os.environ["TQDM_MININTERVAL"] = "10"
