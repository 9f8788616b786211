"""Progress with the terms of the objective and the time left, and the curves for the tracker."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import NoReturn, Protocol

from tqdm import tqdm

SHOWN = ("suppression", "maintenance", "text", "density")
"""Figures shown in the bar."""


class Logged(Protocol):
    """What figures are logged to."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log figures of a step."""


class SearchProgress:
    """Receives the figures of every step of a search.

    Args:
        steps: Number of steps in all.
        label: Words before the bar.
        run: Receives figures and their step; None for neither figures nor bar.
        every: Steps between two figures that are logged [steps].
    """

    def __init__(self, steps: int, label: str, run: Logged | None, every: int = 10) -> None:
        shown = tqdm(total=steps, desc=label, unit="step") if run else tqdm(disable=True)
        self.bar: tqdm[NoReturn] = shown
        self.run, self.every = run, every

    def __enter__(self) -> SearchProgress:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the bar, whatever happened."""
        self.bar.close()

    def __call__(self, figures: dict[str, float]) -> None:
        """Show and forward the figures of one step.

        Args:
            figures: Its terms; `step` counts from 1.
        """
        step = int(figures["step"])
        self.bar.set_postfix({name: f"{figures[name]:.3g}" for name in SHOWN}, refresh=False)
        self.bar.update(step - self.bar.n)
        if self.run and (step % self.every == 0 or "validation_density" in figures):
            told = {name: value for name, value in figures.items() if name != "step"}
            self.run.metrics(told, step)
