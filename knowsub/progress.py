"""How far long work is: bars on a terminal, lines elsewhere, each with the time left."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TextIO, TypeVar

SECONDS = 10.0
"""Least time between two lines of progress [s]."""
LINE = "{desc}: {percentage:.0f} %, {n_fmt}/{total_fmt}, {elapsed} gone, {remaining} left{postfix}"
"""A line of progress."""
DELAY = 5.0
"""Time before work shows its progress [s]: short work shows none."""
Item = TypeVar("Item")


_shown: list[str] = []  # the work that shows its progress, if any


def with_progress(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Yield items, and show how far they are once they have taken `DELAY`; `total` is their number.

    Within other work of this kind nothing is shown: the time left of the whole is what counts.
    """
    from tqdm import tqdm  # late: it reads what `runner` sets in the environment

    if _shown:
        yield from items
        return
    _shown.append(what)
    try:
        yield from tqdm(items, what, total, delay=DELAY, leave=False, position=0)  # moves no cursor
    finally:
        _shown.remove(what)


class Lines(io.TextIOBase):
    """A stream that shows progress bars as lines of their own, one in ten seconds at most.

    A bar draws itself over and over after a carriage return, which a file or a pipe cannot undo.
    Here a drawing becomes a line if the last one was long enough ago, or if it is the bar's last;
    anything else passes through.

    Args:
        stream: The stream to write to.
        clock: Returns the time [s].
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._shown, self._drawn = clock(), ""

    def write(self, text: str) -> int:
        """Write text, or keep a drawing of a bar until it is due; return its length."""
        if text.startswith("\r"):
            self._drawn = text.strip()
        if not text.startswith("\r") and not (text == "\n" and self._drawn):
            self._stream.write(text)
        elif self._drawn and (text == "\n" or self._clock() - self._shown >= SECONDS):
            self._stream.write(f"{self._drawn}\n")
            self._stream.flush()
            self._shown, self._drawn = self._clock(), ""
        return len(text)

    def flush(self) -> None:
        """Hand on what has been written."""
        self._stream.flush()

    def fileno(self) -> int:
        """Return the descriptor of the stream, for what writes to it directly."""
        return self._stream.fileno()


@contextmanager
def progress_bar(
    total: int,
    label: str,
    log: Callable[[Mapping[str, float], int], None] | None,
    shown: Sequence[str] = (),
    every: int = 1,
) -> Iterator[Callable[..., None]]:
    """Show how far long work is, with its newest metrics, and log them.

    Args:
        total: Optimiser steps in all [steps].
        label: Words before the bar.
        log: Takes metrics and their step; None, as in all but the first of several processes of
            a stage, hides everything.
        shown: Names of the metrics after the bar; none means all.
        every: Steps between two that are logged; the last step always is [steps].

    Yields:
        Takes the metrics of a step, of which `step` is one, and the number of steps done of all,
        which is the same if it is not given.
    """
    from tqdm import tqdm

    with tqdm(total=total, desc=label, unit="step") if log else tqdm(disable=True) as bar:

        def show(metrics: Mapping[str, float], done: int | None = None) -> None:
            step = int(metrics["step"])
            values = {name: value for name, value in metrics.items() if name != "step"}
            words = {name: f"{values[name]:.3g}" for name in shown or values}
            bar.set_postfix(words, refresh=False)
            bar.update((step if done is None else done) - bar.n)
            if log and values and (step % every == 0 or step == total):
                log(values, step)

        yield show
