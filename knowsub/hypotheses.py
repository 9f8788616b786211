"""Hypothesis tests and confidence intervals, thin over scipy; the unit is the fact, within seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats

Values = Sequence[Any] | NDArray[Any]
"""Numbers or truths, one per item."""
Alternative = Literal["two-sided", "greater", "less"]


@dataclass(frozen=True)
class Paired:
    """The result of a Wilcoxon signed-rank test."""

    statistic: float
    """Sum of the ranks of the positive differences."""
    pvalue: float
    """Probability of such differences, or larger ones, under the null hypothesis."""
    effect: float
    """Hodges-Lehmann estimate of the difference, in the unit of the values (nats for NLL)."""
    pairs: int
    """Number of pairs, those without a difference included."""


def paired_wilcoxon(
    first: Values, second: Values, alternative: Alternative = "two-sided"
) -> Paired:
    """Return whether paired values differ, by the Wilcoxon signed-rank test.

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
    one, two = np.asarray(first, float), np.asarray(second, float)
    if one.shape != two.shape or one.ndim != 1 or not len(one):
        raise ValueError(f"pairs of {one.shape} and {two.shape} values")
    difference = one - two
    if not difference.any():
        return Paired(0.0, 1.0, 0.0, len(one))
    result = stats.wilcoxon(difference.tolist(), zero_method="pratt", alternative=alternative)
    ranks = stats.rankdata(np.abs(difference))
    positive = float(ranks[difference > 0].sum())
    return Paired(positive, float(result.pvalue), hodges_lehmann(difference), len(one))


def hodges_lehmann(differences: NDArray[np.float64]) -> float:
    """Return the median of the means of all pairs of differences, each with itself included."""
    row, column = np.triu_indices(len(differences))
    return float(np.median((differences[row] + differences[column]) / 2))


def holm(pvalues: Values) -> NDArray[np.float64]:
    """Return p-values corrected for being several, by Holm's step-down method.

    Controls the chance of any false rejection, whatever the tests' dependence.

    Args:
        pvalues: The p of each test.

    Returns:
        The corrected p of each, at most 1, in the same order.
    """
    given = np.asarray(pvalues, float)
    order = np.argsort(given, kind="stable")
    corrected = np.empty(len(given))
    stepped = given[order] * np.arange(len(given), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return corrected


@dataclass(frozen=True)
class Randomisation:
    """The result of a comparison with random draws."""

    pvalue: float
    """(1 + number of draws at least as large) / (1 + number of draws)."""
    reached: int
    """Number of draws at least as large."""
    draws: int
    """Number of draws."""


def permutation_p(observed: float, drawn: Sequence[float]) -> Randomisation:
    """Return whether an observed effect is larger than random draws give.

    Null hypothesis: the observed value is one more draw from the same distribution (the critical
    subnetwork is as good as a random mask of its size per site). Alternative: it is larger.
    Sampled; p is never below 1 / (1 + draws) and is valid at that size. One test, no correction.

    Args:
        observed: The effect, in any unit.
        drawn: The effect of each random draw, in the same unit.

    Returns:
        The result.

    Raises:
        ValueError: If there is no draw.
    """
    if not drawn:
        raise ValueError("a permutation p needs at least one draw")
    reached = sum(value >= observed for value in drawn)
    return Randomisation((1 + reached) / (1 + len(drawn)), reached, len(drawn))


@dataclass(frozen=True)
class Discordant:
    """The result of McNemar's test."""

    first_only: int
    """Items that only the first has right."""
    second_only: int
    """Items that only the second has right."""
    pvalue: float
    """Two-sided, exact."""


def mcnemar(first: Values, second: Values) -> Discordant:
    """Return whether two models differ in accuracy on the same items, by McNemar's exact test.

    Null hypothesis: an item that just one has right is as likely to be either's. Alternative:
    two-sided. Exact (binomial). One test, no correction.

    Args:
        first: True where the first has the item right.
        second: The same for the second, item by item.

    Returns:
        The result; p is 1 where they never differ.

    Raises:
        ValueError: If there are not as many items on both sides.
    """
    one, two = np.asarray(first, bool), np.asarray(second, bool)
    if one.shape != two.shape:
        raise ValueError(f"pairs of {one.shape} and {two.shape} items")
    only = int((one & ~two).sum()), int((two & ~one).sum())
    pvalue = float(stats.binomtest(only[0], sum(only)).pvalue) if sum(only) else 1.0
    return Discordant(*only, pvalue)


@dataclass(frozen=True)
class Overlap:
    """The result of comparing an overlap with chance."""

    shared: int
    """Weights in both masks."""
    expected: float
    """Weights that independent masks of these sizes share on average."""
    pvalue: float
    """Probability of sharing so many, or more."""


def overlap_tail(total: int, first: int, second: int, shared: int) -> Overlap:
    """Return whether two masks share more weights than independent ones, by the hypergeometric.

    Null hypothesis: the second is drawn uniformly among all masks of its size. Alternative: it
    shares more with the first. Exact within one site. One test, no correction.

    Args:
        total: Weights in all.
        first: Weights in the first mask.
        second: Weights in the second mask.
        shared: Weights in both.

    Returns:
        The result.

    Raises:
        ValueError: If the numbers do not fit together.
    """
    lowest, highest = max(0, first + second - total), min(first, second)
    if not 0 <= max(first, second) <= total or not lowest <= shared <= highest:
        raise ValueError(f"masks of {first} and {second} of {total} weights cannot share {shared}")
    pvalue = float(stats.hypergeom.sf(shared - 1, total, first, second))
    return Overlap(shared, first * second / total if total else 0.0, pvalue)


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
