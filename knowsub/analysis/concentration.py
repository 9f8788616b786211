"""Whether few neurons carry a mask, and whether its weights are unusually large."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor, nn

from knowsub.analysis.counts import Counts
from knowsub.architectures import MaskableMatrix
from knowsub.masks.ablation import masked_matrices
from knowsub.masks.mask import Mask

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


@dataclass(frozen=True)
class MagnitudeTest:
    """Magnitudes of removed against kept weights, each as a quantile of its own site."""

    ks: float
    """Kolmogorov-Smirnov distance of removed from kept [0 to 1]."""
    p: float
    """Its two-sided p-value (asymptotic)."""
    mean_quantile: float
    """Mean quantile of a removed weight among its site's magnitudes; 0.5 = no relation."""
    by_site: Mapping[str, float]
    """Site -> Kolmogorov-Smirnov distance within that site."""


def magnitude_quantiles(
    model: nn.Module, sites: Sequence[MaskableMatrix]
) -> dict[str, Float[Tensor, ...]]:
    """Return every maskable weight's magnitude as its quantile within its site.

    Args:
        model: The original model.
        sites: Its maskable matrices.

    Returns:
        Site name -> quantiles in (0, 1], shaped as the site; uniform by construction.
    """
    return {site.name: _quantiles(site, model) for site in sites}


def magnitude_test(
    mask: Mask, sites: Sequence[MaskableMatrix], quantiles: Mapping[str, Float[Tensor, ...]]
) -> MagnitudeTest:
    """Return whether magnitude tells a mask's weights from the others of the same site.

    Null hypothesis: removed and kept weights of a site have magnitudes of one distribution.
    Alternative: two different ones. Taking quantiles within the site first keeps sites of
    different scale or density from mimicking a difference.

    Args:
        mask: The mask.
        sites: Sites of its model.
        quantiles: What `magnitude_quantiles` returned for that model.

    Returns:
        The test over all sites together, and the distance in each.

    Raises:
        ValueError: If the mask has a site that is not among the sites.
    """
    removed, by_site, weights = [torch.zeros(0)], {}, 0
    for site in masked_matrices(sites, mask):
        inside = quantiles[site.name][mask.bits[site.name]].sort().values
        by_site[site.name] = _distance(inside, site.size)
        removed.append(inside)
        weights += site.size
    inside = torch.cat(removed).sort().values
    ks, mean = _distance(inside, weights), float(inside.mean()) if len(inside) else 0.5
    return MagnitudeTest(ks, _p_value(ks, len(inside), weights - len(inside)), mean, by_site)


def _quantiles(site: MaskableMatrix, model: nn.Module) -> Float[Tensor, ...]:
    weights = site.view(model.get_parameter(site.parameter).detach()).abs().flatten()
    order = weights.argsort(stable=True)
    ranks = torch.empty(len(order), dtype=torch.float32)
    ranks[order] = torch.arange(1, len(order) + 1, dtype=torch.float32) / len(order)
    return ranks.view(site.shape)


def _distance(inside: Float[Tensor, " removed"], weights: int) -> float:
    """Kolmogorov-Smirnov distance of removed from kept, from the removed ones' sorted quantiles.

    Removed and kept together have uniform quantiles, so with density d the gap between removed and
    all is (1 - d) times the gap between removed and kept: the kept ones need not be sorted.
    """
    removed = len(inside)
    if removed in (0, weights):
        return 0.0
    quantiles = inside.double()
    steps = torch.arange(removed + 1, dtype=torch.float64) / removed
    above = float((steps[1:] - quantiles).max())
    below = float((quantiles - 1 / weights - steps[:-1]).max())
    return max(0.0, above, below) * weights / (weights - removed)


def _p_value(distance: float, first: int, second: int) -> float:
    if not first or not second:
        return 1.0
    effective = first * second / (first + second)
    return float(np.clip(stats.kstwobign.sf(distance * np.sqrt(effective)), 0.0, 1.0))
