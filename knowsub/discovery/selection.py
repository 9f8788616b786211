"""The written rule by which one candidate of a search becomes its result.

1. The deterministic mask, trimmed to `max_density`, is validated every `evaluate_every`-th step and
   at the last. All of these are candidates where the noise stays as it is. Where it falls, the last
   alone is: until then masks are not settled, and do more harm for what they forget.
2. It qualifies if, on validation data alone, its control KG ratio and its control LM ratio stay
   within the limits of `params.yaml`.
3. Among those that qualify, the one with the highest target NLL on validation prompts wins; ties
   go to the later step.
4. If none qualifies, the one that exceeds the limits least wins, and the result says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from knowsub.discovery.options import TrainOptions

StepMetrics = dict[str, float]
"""Metrics of one step or one validation, by name."""


@dataclass(frozen=True)
class Candidate:
    """One validated mask of a search."""

    step: int
    """Steps done when it was validated."""
    density: float
    """Share of open gates, after trimming [fraction]."""
    target_nll: float
    """Mean NLL of the target's tails on validation prompts [nats per token]."""
    control_ratio: float
    """PPL of the remaining model over the original's on validation control facts."""
    text_ratio: float
    """PPL of the remaining model over the original's on validation text."""


def is_validated(step: int, options: TrainOptions) -> bool:
    """Return whether the mask of a step is validated.

    Args:
        step: Steps done, from 1.
        options: Hold the steps, and those between validations.

    Returns:
        True by rule 1.
    """
    return step == options.steps or step % options.evaluate_every == 0


def is_candidate(step: int, options: TrainOptions) -> bool:
    """Return whether the mask of a step that is validated is a candidate.

    Args:
        step: Steps done, from 1.
        options: Hold the steps and the schedule of the noise.

    Returns:
        True by rule 1.
    """
    return step == options.steps or options.noise_final == 1


def constraint_violation(candidate: Candidate, options: TrainOptions) -> float:
    """Return by how much a candidate exceeds the limits; 0 means that it qualifies [nats].

    Args:
        candidate: The candidate.
        options: Holds the limits.

    Returns:
        Summed log-ratios above the limits; infinite for figures that are not finite.
    """
    over = 0.0
    for value, limit in (
        (candidate.control_ratio, options.max_control_ratio),
        (candidate.text_ratio, options.max_text_ratio),
    ):
        if not math.isfinite(value):
            return math.inf
        over += max(0.0, math.log(value / limit))
    return over


def is_better(candidate: Candidate, best: Candidate | None, options: TrainOptions) -> bool:
    """Return whether a later candidate replaces the best one so far.

    Args:
        candidate: The later one.
        best: The best so far, None at first.
        options: Holds the limits.

    Returns:
        True if the rule prefers the candidate.
    """
    if best is None:
        return True
    own, other = constraint_violation(candidate, options), constraint_violation(best, options)
    if own > 0 or other > 0:
        return own <= other
    return candidate.target_nll >= best.target_nll


@dataclass(frozen=True)
class SearchResult:
    """The result of a search."""

    bits: Bool[Tensor, " unit"]
    """Which gates of the chosen candidate are open, on the CPU."""
    chosen: Candidate
    """The candidate and its validation figures."""
    qualified: bool
    """Whether it met the limits of the selection rule."""
    curve: list[StepMetrics]
    """Every step's figures, in order; `step` counts from 1."""
