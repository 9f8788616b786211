"""Whether few neurons carry a mask: Gini coefficient and top share, against chance."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import stats

from knowsub.analysis.counts import Counts

TOP = 0.01
"""Share of the units whose part of the mask is reported [fraction]."""


@dataclass(frozen=True)
class Concentration:
    """How unevenly the weights of one site lie over its units."""

    site: str
    """Name of the site."""
    unit: str
    """`input` or `output`: the neurons read from, or written to."""
    units: int
    """Number of units."""
    gini: float
    """Gini coefficient of the members per unit: 0 = even, towards 1 = in one unit."""
    gini_uniform: float
    """Its expectation under uniform placement within the site."""
    top_share: float
    """Share of the members that lies in the fullest 1 % of the units (at least one) [fraction]."""
    top_share_uniform: float
    """Its expectation under uniform placement within the site [fraction]."""
    p: float
    """Upper-tail p-value of the index of dispersion (chi-square)."""
    p_holm: float
    """The same after Holm's correction over all sites and directions of the mask."""

    def with_holm(self, p: float) -> Concentration:
        """Return the same row with its corrected p-value."""
        return replace(self, p_holm=p)


def concentration(site: str, unit: str, members: Counts, weights: int) -> Concentration:
    """Return how unevenly a site's members lie over its units, which are of one size.

    Null hypothesis: given the site's members, every set of as many of its weights is equally
    likely. Alternative: more uneven. Asymptotic (chi-square, corrected for drawing without
    replacement). The expectations take each unit's members as hypergeometric.

    Args:
        site: Name of the site.
        unit: Name of the direction.
        members: Weights of the mask in each unit.
        weights: Weights of the site.

    Returns:
        The row, its corrected p-value equal to the plain one.
    """
    units, chosen = len(members), int(members.sum())
    top = max(1, round(TOP * units))
    if chosen in (0, weights) or units < 2:
        even = top / units
        return Concentration(site, str(unit), units, 0.0, 0.0, even, even, 1.0, 1.0)
    mean = chosen / units
    spread = float(((members - mean) ** 2).sum()) / mean * (weights - 1) / (weights - chosen)
    p = float(stats.chi2.sf(spread, units - 1))
    support = np.arange(int(mean + 12 * mean**0.5) + 40)
    below = np.asarray(stats.hypergeom.cdf(support, weights, weights // units, chosen))
    return Concentration(
        site=site,
        unit=str(unit),
        units=units,
        gini=gini(members),
        gini_uniform=float((below * (1 - below)).sum() / mean),
        top_share=float(np.sort(members)[-top:].sum() / chosen),
        top_share_uniform=_expected_top(below, units, top) / chosen,
        p=p,
        p_holm=p,
    )


def gini(values: Counts) -> float:
    """Return the Gini coefficient of non-negative values, 0 if they are all zero.

    Args:
        values: At least one value.

    Returns:
        Mean absolute difference of two values drawn at random, over twice the mean.
    """
    ordered = np.sort(values).astype(np.float64)
    total, size = ordered.sum(), len(ordered)
    if total == 0:
        return 0.0
    ranks = np.arange(1, size + 1)
    return float(2 * (ranks * ordered).sum() / (size * total) - (size + 1) / size)


def _expected_top(below: npt.NDArray[np.float64], units: int, top: int) -> float:
    """Expected sum of the `top` largest of `units` independent counts with distribution `below`.

    The number of units above k is binomial, so the sum of the largest is the sum over k of the
    expectation of min(top, that number).
    """
    places = np.arange(top)[:, None]
    at_least = stats.binom.sf(places, units, 1 - below[None, :])
    return float(np.sum(at_least))
