"""How alike masks are: weights in common over what independent masks would share by chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import signal, stats

from knowsub.analysis.counts import Values, unit_counts
from knowsub.architectures import MaskableMatrix
from knowsub.hypotheses import holm
from knowsub.masks.ablation import masked_matrices
from knowsub.masks.mask import Mask
from knowsub.masks.options import Granularity


@dataclass(frozen=True)
class MaskSummary:
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


def summarize_mask(
    mask: Mask, sites: Sequence[MaskableMatrix], target: str, seed: int, method: str = "trained"
) -> MaskSummary:
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
    covered = masked_matrices(sites, mask)
    units = {True: [np.zeros(0)], False: [np.zeros(0)]}
    for site in covered:
        bits = mask.bits[site.name]
        for unit in (Granularity.HEAD, Granularity.INPUT, Granularity.OUTPUT):
            if unit is not Granularity.HEAD or "head" in site.axes:
                counts = unit_counts(bits, site, unit).astype(np.float64)
                units[unit is Granularity.HEAD].append(counts / max(counts.mean(), 1e-12))
    return MaskSummary(
        target=target,
        seed=seed,
        method=method,
        model=mask.model,
        packed={site.name: np.packbits(mask.bits[site.name].numpy()) for site in covered},
        sizes={site.name: (site.size, int(mask.bits[site.name].sum())) for site in covered},
        heads=np.concatenate(units[True]),
        neurons=np.concatenate(units[False]),
    )


WINDOW = 12.0
"""Standard deviations around the expectation that the exact null distribution covers."""


@dataclass(frozen=True)
class Pair:
    """Two masks and what they have in common."""

    first: str
    """Name of one mask."""
    second: str
    """Name of the other."""
    kind: str
    """`other seed`, `other target` (same method), or `other method`."""
    shared: int
    """Weights in both."""
    expected: float
    """Weights in both if the masks were independent with the same density per site."""
    ratio: float
    """shared / expected; 1 = chance."""
    jaccard: float
    """Shared weights over weights in either [fraction]."""
    jaccard_expected: float
    """The same at the expected number of shared weights [fraction]."""
    coefficient: float
    """Overlap coefficient: shared weights over the smaller mask [fraction]."""
    z: float
    """Shared weights above their expectation [standard deviations of the null]."""
    p: float
    """Upper-tail p-value; 0 means below 1e-15."""
    p_holm: float
    """The same after Holm's correction over all pairs."""
    head_correlation: float
    """Spearman correlation of the heads' relative densities."""
    neuron_correlation: float
    """Spearman correlation of the neurons' relative densities."""


def compare(first: MaskSummary, second: MaskSummary) -> Pair:
    """Return what two masks have in common, tested against independence.

    Null hypothesis, given each mask's weights per site: the masks are independent, so that the
    weights in both are a sum over sites of hypergeometric numbers. Alternative: more in common.
    Exact: the sites' distributions are convolved (tails beyond 12 standard deviations cut off).

    Args:
        first: One mask.
        second: Another of the same model and sites.

    Returns:
        The pair, its corrected p-value equal to the plain one.

    Raises:
        ValueError: If the masks differ in model or sites.
    """
    _require_alike(first, second)
    shared = sum(
        int(np.bitwise_count(first.packed[site] & second.packed[site]).sum(dtype=np.int64))
        for site in first.packed
    )
    triples = [(size, n, second.sizes[site][1]) for site, (size, n) in first.sizes.items()]
    expected = sum(a * b / size for size, a, b in triples)
    variance = sum(_variance(*triple) for triple in triples)
    sizes = [sum(n for _, n in mask.sizes.values()) for mask in (first, second)]
    p = _upper_tail(shared, triples)
    return Pair(
        first=first.name,
        second=second.name,
        kind=_kind(first, second),
        shared=shared,
        expected=expected,
        ratio=shared / expected if expected else 1.0,
        jaccard=_share(float(shared), float(sum(sizes) - shared)),
        jaccard_expected=_share(expected, sum(sizes) - expected),
        coefficient=_share(float(shared), float(min(sizes))),
        z=(shared - expected) / variance**0.5 if variance else 0.0,
        p=p,
        p_holm=p,
        head_correlation=_spearman(first.heads, second.heads),
        neuron_correlation=_spearman(first.neurons, second.neurons),
    )


def overlaps(profiles: Sequence[MaskSummary]) -> list[dict[str, Any]]:
    """Return all pairs of trained masks, and each of them with the other methods' of its item.

    Args:
        profiles: The masks, all of one model.

    Returns:
        One `Pair` per row as a dictionary, Holm's correction over all of them.

    Raises:
        ValueError: If the masks differ in model or sites.
    """
    pairs = [
        compare(first, second)
        for first, second in combinations(profiles, 2)
        if "trained" in (first.method, second.method)
        and (first.method == second.method or _item(first) == _item(second))
    ]
    corrected = holm([pair.p for pair in pairs])
    return [
        asdict(replace(pair, p_holm=float(p))) for pair, p in zip(pairs, corrected, strict=True)
    ]


def _item(mask: MaskSummary) -> tuple[str, int]:
    return mask.target, mask.seed


def _kind(first: MaskSummary, second: MaskSummary) -> str:
    if first.method != second.method:
        return "other method"
    return "other seed" if first.target == second.target else "other target"


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


def _variance(size: int, first: int, second: int) -> float:
    """Variance of the weights that two independent masks of one site share."""
    free = first * second * (size - first) * (size - second)
    return free / (size * size * max(size - 1, 1))


def _upper_tail(shared: int, triples: Sequence[tuple[int, int, int]]) -> float:
    law, start = np.ones(1), 0
    for size, first, second in triples:
        mean, reach = first * second / size, WINDOW * _variance(size, first, second) ** 0.5 + 2
        low = max(0, first + second - size, int(mean - reach))
        high = min(first, second, int(mean + reach) + 1)
        site = np.exp(stats.hypergeom.logpmf(np.arange(low, high + 1), size, first, second))
        law = signal.convolve(law, site, method="direct")
        start += low
    tail = float(law[max(0, shared - start) :].sum())
    return min(1.0, tail) if tail > 1e-15 else 0.0


def _spearman(first: Values, second: Values) -> float:
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(stats.spearmanr(first, second).statistic)


def _require_alike(first: MaskSummary, second: MaskSummary) -> None:
    if first.model != second.model:
        raise ValueError(
            f"{first.name} and {second.name} are masks of two models: "
            f"{first.model[:12]} and {second.model[:12]}"
        )
    if first.sizes.keys() != second.sizes.keys():
        differing = sorted(first.sizes.keys() ^ second.sizes.keys())
        raise ValueError(f"{first.name} and {second.name} differ in sites: {differing[0]}")
