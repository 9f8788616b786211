"""Hypothesis tests and confidence intervals, thin over scipy; the unit is the fact, within seed.

`scipy.stats`, which takes two seconds to import, is imported by scipy itself when it is first used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy
from jaxtyping import Float
from numpy.typing import NDArray

Values = Sequence[Any] | NDArray[Any]
"""Numbers, one per item."""
Alternative = Literal["two-sided", "greater", "less"]


@dataclass(frozen=True)
class WilcoxonResult:
    """The result of a Wilcoxon signed-rank test."""

    statistic: float
    """Sum of the ranks of the positive differences."""
    pvalue: float
    """Probability of such differences, or larger ones, under the null hypothesis."""
    effect: float
    """Hodges-Lehmann estimate of the difference, in the unit of the values (nats for NLL)."""


def paired_wilcoxon(
    first: Values, second: Values, alternative: Alternative = "two-sided"
) -> WilcoxonResult:
    """Test whether paired values differ, by the Wilcoxon signed-rank test.

    Null hypothesis: the differences first - second are symmetric about 0. Alternative: they are
    not, or lie above (`greater`) or below (`less`). p is exact for up to 50 pairs without ties and
    zeros, else by the normal approximation; zeros are ranked, then left out (Pratt). One test.

    Args:
        first: One value per fact, in any unit.
        second: The paired values, in the same unit.
        alternative: `two-sided`, `greater` or `less`.

    Returns:
        The result; p is 1 where no pair differs.

    Raises:
        ValueError: If there are no pairs, or the numbers of values differ.
    """
    x, y = np.asarray(first, float), np.asarray(second, float)
    if x.shape != y.shape or x.ndim != 1 or not len(x):
        raise ValueError(f"pairs of {x.shape} and {y.shape} values")
    differences = x - y
    if not differences.any():
        return WilcoxonResult(0.0, 1.0, 0.0)
    result = scipy.stats.wilcoxon(
        differences.tolist(), zero_method="pratt", alternative=alternative
    )
    ranks = scipy.stats.rankdata(np.abs(differences))
    # Hodges-Lehmann: median of the means of all pairs, each difference with itself included
    row, column = np.triu_indices(len(differences))
    effect = float(np.median((differences[row] + differences[column]) / 2))
    statistic = float(ranks[differences > 0].sum())
    return WilcoxonResult(statistic, float(result.pvalue), effect)


def holm(pvalues: Values) -> NDArray[np.float64]:
    """Return p-values corrected for multiple testing by Holm's step-down method, in their order.

    Controls the chance of any false rejection, whatever the tests' dependence.
    """
    p = np.asarray(pvalues, float)
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    stepped = p[order] * np.arange(len(p), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return corrected


def permutation_p(observed: float, drawn: Sequence[float]) -> float:
    """Test whether an observed effect is larger than random draws give.

    Null hypothesis: the observed value is one more draw from the same distribution (the critical
    subnetwork is as good as a random mask of its size per matrix). Alternative: it is larger.
    Sampled; p is never below 1 / (1 + draws) and is valid at that size. One test, no correction.

    Args:
        observed: The effect, in any unit.
        drawn: The effect of each random draw, in the same unit.

    Returns:
        (1 + number of draws at least as large) / (1 + number of draws).

    Raises:
        ValueError: If there is no draw.
    """
    if not drawn:
        raise ValueError("a permutation p needs at least one draw")
    reached = sum(value >= observed for value in drawn)
    return (1 + reached) / (1 + len(drawn))


@dataclass(frozen=True)
class ConfidenceInterval:
    """A mean and its confidence interval."""

    mean: float
    """Mean over the seeds of the means over their facts, in the unit of the values."""
    low: float
    """Lower end, in the same unit."""
    high: float
    """Upper end, in the same unit."""


def hierarchical_bootstrap(
    seeds: Sequence[Values], level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> ConfidenceInterval:
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
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(groups), size=(resamples, len(groups)))  # which seeds
    means = np.empty(drawn.shape)
    for index, group in enumerate(groups):
        chosen = drawn == index
        facts = rng.integers(len(group), size=(int(chosen.sum()), len(group)))
        means[chosen] = group[facts].mean(axis=1)
    low, high = np.quantile(means.mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    mean = float(np.mean([group.mean() for group in groups]))
    return ConfidenceInterval(mean, float(low), float(high))


def ratio_interval(
    above: Values, below: Values, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return a percentile bootstrap interval of the ratio of two means over the same facts.

    Facts are resampled, both of their values together. No null hypothesis. Sampled. One interval,
    no correction. Resamples whose lower mean is not positive are left out; if all are, both ends
    are the ratio itself.

    Args:
        above: One value per fact, in any unit.
        below: Another one, of the same facts; their mean is positive.
        level: Confidence level [fraction].
        resamples: Number of resamples.
        seed: Of the resampling.

    Returns:
        Lower and upper end.
    """
    x, y = np.asarray(above, float), np.asarray(below, float)
    chosen = np.random.default_rng(seed).integers(len(x), size=(resamples, len(x)))
    top, bottom = x[chosen].mean(axis=1), y[chosen].mean(axis=1)
    ratios = top[bottom > 0] / bottom[bottom > 0] if (bottom > 0).any() else x.mean() / y.mean()
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def two_sample_ks(first: Values, second: Values) -> tuple[float, float]:
    """Return statistic and p-value of the two-sided two-sample Kolmogorov-Smirnov test.

    Null hypothesis: both samples come from the same distribution. Alternative: they do not. Exact
    where that is feasible. One test, no correction. ValueError if a sample is empty.
    """
    result = scipy.stats.ks_2samp(np.asarray(first, float), np.asarray(second, float))
    return float(result.statistic), float(result.pvalue)


def interval(
    values: Float[np.ndarray, " question"], resamples: int, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a mean; of equal values, the value itself.

    scipy draws the resamples of `hierarchical_bootstrap` with a single seed, but interpolates
    quantiles in another order: the two differ in the last bit, and both are in locked outputs.
    """
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    rng = np.random.default_rng(seed)
    result = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=resamples, method="percentile", rng=rng
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


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
        The p-value; 1 where at most one question differs.
    """
    differing = first != second
    if differing.sum() < 2:
        return 1.0
    result = scipy.stats.permutation_test(
        (first[differing], second[differing]), lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples", n_resamples=resamples, vectorized=True,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(result.pvalue)
