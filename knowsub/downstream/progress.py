"""One bar over all finetuning runs of a mask, and the curves for the tracker."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from tqdm import tqdm

from knowsub.downstream.finetune import VALIDATION, EvalPoint
from knowsub.downstream.runs import FinetuneRun


class FinetuneProgress:
    """Receives the points of every evaluation.

    Args:
        total: Optimiser steps of all runs at most.
        steps: Optimiser steps of a run at most.
        label: Words before the bar.
        metrics: Receives figures and their step.
    """

    def __init__(
        self, total: int, steps: int, label: str, metrics: Callable[[dict[str, float], int], None]
    ) -> None:
        self._bar = tqdm(total=total, desc=label, unit="step")
        self._steps, self._metrics = steps, metrics
        self._seen: dict[str, int] = {}

    def __enter__(self) -> FinetuneProgress:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the bar, whatever happened."""
        self._bar.close()

    def __call__(self, run: FinetuneRun, points: list[EvalPoint]) -> None:
        """Show and forward new points of a run.

        Args:
            run: The run.
            points: The points; those of the first repeat go to the tracker.
        """
        if run.name not in self._seen:
            self._bar.update(len(self._seen) * self._steps - self._bar.n)
            self._seen[run.name] = 0
        for point in points:
            if run.repeat == 0:
                prefix = f"{run.adaptation}/{run.model}/{point.split}"
                figures = {f"{prefix}_accuracy": point.accuracy, f"{prefix}_loss": point.loss}
                self._metrics(figures, point.step)
            if point.split == VALIDATION:
                self._bar.update(point.step - self._seen[run.name])
                self._seen[run.name] = point.step
                self._bar.set_postfix_str(f"{run.name} {point.accuracy:.2f}", refresh=False)
