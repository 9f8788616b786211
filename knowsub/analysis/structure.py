"""Where a critical subnetwork lies: by block, module type, head and neuron, against uniform placement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from knowsub.analysis.concentration import Concentration, concentration
from knowsub.analysis.counts import (
    Counts,
    Values,
    head_counts,
    unit_counts,
)
from knowsub.architectures import MaskableMatrix
from knowsub.hypotheses import holm
from knowsub.masks.ablation import masked_matrices
from knowsub.masks.mask import Mask
from knowsub.masks.options import Granularity


@dataclass(frozen=True)
class GroupDensity:
    """One block, part, cell or head and the share of it that belongs to the subnetwork."""

    name: str
    """Name, such as `block 3` or `block 3 head 1`."""
    weights: int
    """Maskable weights in the group."""
    members: int
    """Weights of the subnetwork in the group."""
    density: float
    """members / weights [fraction]."""
    enrichment: float
    """Density over the density of the whole level; 1 = as expected [ratio]."""
    z: float
    """Members above their expectation [standard deviations of the null]."""
    p: float
    """Two-sided p-value of the exact test, uncorrected."""
    p_holm: float
    """The same after Holm's correction over the level's groups."""


@dataclass(frozen=True)
class Placement:
    """How the subnetwork is spread over the groups of one level."""

    level: str
    """`block`, `part`, `cell` (block and part), `head` or `kv head`."""
    chi2: float
    """Chi-square statistic over all groups, corrected for drawing without replacement."""
    degrees: int
    """Its degrees of freedom."""
    p: float
    """Its upper-tail p-value."""
    effect: float
    """Cohen's w: root of the mean squared relative deviation, weighted by expectation."""
    groups: tuple[GroupDensity, ...]
    """All groups, the most over-represented (largest z) first."""


def placement(level: str, groups: Mapping[str, tuple[int, int]]) -> Placement:
    """Return how weights are spread over groups, tested against uniform placement.

    Null hypothesis, given the sizes: every set of as many weights of the level is equally likely,
    so that a group's members are hypergeometric. Alternative: any other spread. The groups' tests
    are exact and two-sided (twice the smaller tail), corrected by Holm; the one over all groups is
    asymptotic (chi-square).

    Args:
        level: Name of the level.
        groups: Name -> (weights, weights of the subnetwork), at least one.

    Returns:
        The placement.
    """
    names = list(groups)
    weights = np.array([groups[name][0] for name in names], dtype=np.int64)
    members = np.array([groups[name][1] for name in names], dtype=np.int64)
    total, chosen = int(weights.sum()), int(members.sum())
    expected: Values = weights.astype(np.float64) * (chosen / total)
    variance = expected * (1 - weights / total) * (total - chosen) / max(total - 1, 1)
    z = np.divide(members - expected, np.sqrt(variance), where=variance > 0, out=0.0 * expected)
    p = _two_sided(members, total, weights, chosen)
    rows = zip(names, weights, members, expected, z, p, holm(p), strict=True)
    found = [
        GroupDensity(
            name=name,
            weights=int(size),
            members=int(count),
            density=float(count / size),
            enrichment=float(count / mean) if mean else 1.0,
            z=float(deviation),
            p=float(p_value),
            p_holm=float(corrected),
        )
        for name, size, count, mean, deviation, p_value, corrected in rows
    ]
    chi2, degrees = _chi_square(members, expected, total, chosen)
    return Placement(
        level=level,
        chi2=chi2,
        degrees=degrees,
        p=float(stats.chi2.sf(chi2, degrees)) if degrees else 1.0,
        effect=float(np.sqrt(chi2 * (1 - chosen / total) / chosen)) if chosen else 0.0,
        groups=tuple(sorted(found, key=lambda group: -group.z)),
    )


def placements(mask: Mask, sites: Sequence[MaskableMatrix]) -> tuple[Placement, ...]:
    """Return the placement of a mask by block, part, cell and head.

    Args:
        mask: The mask.
        sites: Sites of its model.

    Returns:
        One placement per level that has at least two groups.

    Raises:
        ValueError: If the mask has a site that is not among the sites.
    """
    covered = masked_matrices(sites, mask)
    levels: dict[str, dict[str, tuple[int, int]]] = {"block": {}, "part": {}, "cell": {}}
    for site in covered:
        members = int(mask.bits[site.name].sum())
        cell = {"block": f"block {site.block}", "part": str(site.module_type)}
        cell["cell"] = f"{cell['block']} {site.module_type}"
        for level, name in cell.items():
            weights, before = levels[level].get(name, (0, 0))
            levels[level][name] = (weights + site.size, before + members)
    for name, (kind, weights, members) in head_counts(mask, covered).items():
        levels.setdefault(kind, {})[name] = (weights, members)
    return tuple(placement(level, groups) for level, groups in levels.items() if len(groups) > 1)


def neurons(mask: Mask, sites: Sequence[MaskableMatrix]) -> list[Concentration]:
    """Return how concentrated a mask is on few neurons, per site and direction.

    Args:
        mask: The mask.
        sites: Sites of its model.

    Returns:
        Two rows per site: its input and its output neurons. Holm's correction is over all rows.

    Raises:
        ValueError: If the mask has a site that is not among the sites.
    """
    rows = [
        concentration(site.name, unit, unit_counts(mask.bits[site.name], site, unit), site.size)
        for site in masked_matrices(sites, mask)
        for unit in (Granularity.INPUT, Granularity.OUTPUT)
    ]
    corrected = holm([row.p for row in rows])
    return [row.with_holm(float(p)) for row, p in zip(rows, corrected, strict=True)]


def structure(mask: Mask, sites: Sequence[MaskableMatrix]) -> dict[str, Any]:
    """Return everything about where a mask lies, as one JSON object.

    Args:
        mask: The mask.
        sites: Sites of its model.

    Returns:
        `size`, `maskable`, `sparsity`, `levels` (level -> placement) and `neurons`.

    Raises:
        ValueError: If the mask has a site that is not among the sites.
    """
    return {
        "size": mask.size,
        "maskable": mask.maskable,
        "sparsity": mask.sparsity,
        "levels": {found.level: asdict(found) for found in placements(mask, sites)},
        "neurons": [asdict(row) for row in neurons(mask, sites)],
    }


def _two_sided(members: Counts, total: int, weights: Counts, chosen: int) -> Values:
    below = stats.hypergeom.cdf(members, total, weights, chosen)
    above = stats.hypergeom.sf(members - 1, total, weights, chosen)
    return np.asarray(np.clip(2 * np.minimum(below, above), 0.0, 1.0))


def _chi_square(members: Counts, expected: Values, total: int, chosen: int) -> tuple[float, int]:
    if chosen in (0, total):
        return 0.0, len(members) - 1
    raw = float(((members - expected) ** 2 / expected).sum())
    return raw * (total - 1) / (total - chosen), len(members) - 1
