"""A bar with the terms of the objective and the time left, and the curves for the tracker."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from tqdm import tqdm

SHOWN = ("suppression", "maintenance", "text", "density")
"""Figures shown in the bar."""


class Progress:
    """Receives the figures of every step of a search.

    Args:
        steps: Number of steps in all.
        label: Words before the bar.
        metrics: Receives figures and their step.
        every: Steps between two calls of `metrics` [steps].
    """

    def __init__(
        self,
        steps: int,
        label: str,
        metrics: Callable[[dict[str, float], int], None],
        every: int = 10,
    ) -> None:
        self.bar = tqdm(total=steps, desc=label, unit="step")
        self.metrics = metrics
        self.every = every

    def __enter__(self) -> Progress:
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
        if step % self.every == 0 or "validation_density" in figures:
            self.metrics({name: value for name, value in figures.items() if name != "step"}, step)
