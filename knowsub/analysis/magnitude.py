"""Whether the removed weights are unusually large or small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor, nn

from knowsub.analysis.counts import masked_sites
from knowsub.anatomy import Site
from knowsub.masks.mask import Mask


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


def magnitude_quantiles(model: nn.Module, sites: Sequence[Site]) -> dict[str, Float[Tensor, ...]]:
    """Return every maskable weight's magnitude as its quantile within its site.

    Args:
        model: The original model.
        sites: Its maskable matrices.

    Returns:
        Site name -> quantiles in (0, 1], shaped as the site; uniform by construction.
    """
    return {site.name: _quantiles(site, model) for site in sites}


def magnitude_test(
    mask: Mask, sites: Sequence[Site], quantiles: Mapping[str, Float[Tensor, ...]]
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
    for site in masked_sites(sites, mask):
        inside = quantiles[site.name][mask.bits[site.name]].sort().values
        by_site[site.name] = _distance(inside, site.size)
        removed.append(inside)
        weights += site.size
    inside = torch.cat(removed).sort().values
    ks, mean = _distance(inside, weights), float(inside.mean()) if len(inside) else 0.5
    return MagnitudeTest(ks, _p_value(ks, len(inside), weights - len(inside)), mean, by_site)


def _quantiles(site: Site, model: nn.Module) -> Float[Tensor, ...]:
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
