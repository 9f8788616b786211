"""A mask as far as comparing needs it: packed bits, and the densities of heads and neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from knowsub.analysis.counts import Values, masked_sites, unit_counts
from knowsub.anatomy import Site
from knowsub.masks.kinds import Unit
from knowsub.masks.mask import Mask


@dataclass(frozen=True)
class Profile:
    """A mask as far as comparing needs it: packed bits and the densities of its units."""

    target: str
    """What it removes."""
    seed: int
    """Seed of its training."""
    method: str
    """How it was found: `trained` or the name of a baseline."""
    model: str
    """Fingerprint of its model."""
    packed: Mapping[str, npt.NDArray[np.uint8]]
    """Site -> bits, eight to the byte."""
    sizes: Mapping[str, tuple[int, int]]
    """Site -> (weights, weights of the mask)."""
    heads: Values
    """Density of every head of every attention site over that site's density [ratio]."""
    neurons: Values
    """Density of every input and output neuron over its site's density [ratio]."""

    @property
    def name(self) -> str:
        """Name such as `building.n.01-0`, with the method where it is a baseline's."""
        name = f"{self.target}-{self.seed}"
        return name if self.method == "trained" else f"{name} {self.method}"


def profile(
    mask: Mask, sites: Sequence[Site], target: str, seed: int, method: str = "trained"
) -> Profile:
    """Return what comparing needs of a mask, an eighth of its size.

    Args:
        mask: The mask.
        sites: Sites of its model.
        target: What it removes.
        seed: Seed of its training.
        method: How it was found.

    Returns:
        The profile.

    Raises:
        ValueError: If the mask has a site that is not among the sites.
    """
    covered = masked_sites(sites, mask)
    units = {True: [np.zeros(0)], False: [np.zeros(0)]}
    for site in covered:
        bits = mask.bits[site.name]
        for unit in (Unit.HEAD, Unit.INPUT, Unit.OUTPUT):
            if unit is not Unit.HEAD or "head" in site.axes:
                counts = unit_counts(bits, site, unit).astype(np.float64)
                units[unit is Unit.HEAD].append(counts / max(counts.mean(), 1e-12))
    return Profile(
        target=target,
        seed=seed,
        method=method,
        model=mask.model,
        packed={site.name: np.packbits(mask.bits[site.name].numpy()) for site in covered},
        sizes={site.name: (site.size, int(mask.bits[site.name].sum())) for site in covered},
        heads=np.concatenate(units[True]),
        neurons=np.concatenate(units[False]),
    )
