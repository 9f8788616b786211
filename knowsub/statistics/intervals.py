"""Confidence intervals by the bootstrap; the unit is the fact, within seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from knowsub.statistics.hypotheses import Values


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval."""

    mean: float
    """Mean over the seeds of the means over their facts, in the unit of the values."""
    low: float
    """Lower end, in the same unit."""
    high: float
    """Upper end, in the same unit."""
    level: float
    """Confidence level [fraction]."""


def hierarchical_bootstrap(
    seeds: Sequence[Values], level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return the mean with a percentile bootstrap interval: seeds resampled, then their facts.

    No null hypothesis. Sampled. With a single seed only its facts are resampled, so that the
    interval says nothing about other seeds. One interval, no correction.

    Args:
        seeds: For each seed one value per fact, in any unit; seeds may have different facts.
        level: Confidence level [fraction].
        resamples: Number of resamples.
        seed: Of the resampling.

    Returns:
        The interval.

    Raises:
        ValueError: If there is no seed, or one has no fact.
    """
    groups = [np.asarray(values, float) for values in seeds]
    if not groups or any(len(group) == 0 for group in groups):
        raise ValueError("the bootstrap needs at least one seed, and one fact in each")
    random = np.random.default_rng(seed)
    drawn = random.integers(len(groups), size=(resamples, len(groups)))
    means = np.empty(drawn.shape)
    for index, group in enumerate(groups):
        chosen = drawn == index
        facts = random.integers(len(group), size=(int(chosen.sum()), len(group)))
        means[chosen] = group[facts].mean(axis=1)
    low, high = np.quantile(means.mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    mean = float(np.mean([group.mean() for group in groups]))
    return Interval(mean, float(low), float(high), level)
