"""Intervals and paired tests over questions, thin over scipy."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import stats


def interval(
    values: Float[np.ndarray, " question"], resamples: int, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a mean.

    Args:
        values: One figure per question.
        resamples: Bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        Lower and upper end; both the mean itself where all values are equal.
    """
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = stats.bootstrap(
        (values,), np.mean, n_resamples=resamples, method="percentile",
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def paired_p(
    first: Float[np.ndarray, " question"],
    second: Float[np.ndarray, " question"],
    resamples: int,
    seed: int = 0,
) -> float:
    """Return the two-sided p-value of the paired permutation test of two models' scores.

    Null hypothesis: which of the two models gave a score does not matter, so each question's
    difference is as likely as its negative; alternative: it does. For scores of 0 and 1 this is
    McNemar's test. Exact where the number of sign patterns is at most `resamples`, else sampled.
    Not corrected for the number of comparisons.

    Args:
        first: One model's score per question.
        second: The other's, on the same questions.
        resamples: Most sign patterns tried.
        seed: Seed of the sampling.

    Returns:
        The p-value; 1 where at most one question tells them apart.
    """
    differing = first != second
    if differing.sum() < 2:
        return 1.0
    found = stats.permutation_test(
        (first[differing], second[differing]), lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples", n_resamples=resamples, vectorized=True,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)
