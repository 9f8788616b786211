"""How alike masks are: weights in common over what independent masks would share by chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import signal, stats

from knowsub.analysis.placement import Values
from knowsub.analysis.structure import unit_counts
from knowsub.architectures import MaskableMatrix
from knowsub.hypotheses import holm
from knowsub.masks.ablation import masked_matrices
from knowsub.masks.mask import Mask
from knowsub.masks.options import Granularity


@dataclass(frozen=True)
class MaskSummary:
    """What comparing needs of a mask: packed bits and the densities of its heads and neurons."""

    target: str
    """What it removes."""
    seed: int
    """Seed of its training."""
    method: str
    """How it was found: `trained` or the name of a baseline."""
    model: str
    """Fingerprint of its model."""
    packed: Mapping[str, npt.NDArray[np.uint8]]
    """Matrix -> bits, eight to the byte."""
    sizes: Mapping[str, tuple[int, int]]
    """Matrix -> (weights, weights of the mask)."""
    heads: Values
    """Density of every head of every attention matrix over that matrix's density [ratio]."""
    neurons: Values
    """Density of every input and output neuron over its matrix's density [ratio]."""

    @property
    def name(self) -> str:
        """Name such as `building.n.01-0`, with the method where it is a baseline's."""
        name = f"{self.target}-{self.seed}"
        return name if self.method == "trained" else f"{name} {self.method}"


def summarize_mask(
    mask: Mask, matrices: Sequence[MaskableMatrix], target: str, seed: int, method: str = "trained"
) -> MaskSummary:
    """Return what comparing needs of a mask, an eighth of its size.

    Args:
        mask: The mask.
        matrices: The maskable matrices of its model.
        target: What it removes.
        seed: Seed of its training.
        method: How it was found.

    Returns:
        The summary.

    Raises:
        ValueError: If the mask has a matrix that is not among them.
    """
    covered = masked_matrices(matrices, mask)
    heads, neurons = [np.zeros(0)], [np.zeros(0)]
    for matrix in covered:
        for unit in (Granularity.HEAD, Granularity.INPUT, Granularity.OUTPUT):
            if unit is not Granularity.HEAD or "head" in matrix.axes:
                counts = unit_counts(mask.bits[matrix.name], matrix, unit).astype(np.float64)
                densities = heads if unit is Granularity.HEAD else neurons
                densities.append(counts / max(counts.mean(), 1e-12))
    return MaskSummary(
        target=target,
        seed=seed,
        method=method,
        model=mask.model,
        packed={each.name: np.packbits(mask.bits[each.name].numpy()) for each in covered},
        sizes={each.name: (each.size, int(mask.bits[each.name].sum())) for each in covered},
        heads=np.concatenate(heads),
        neurons=np.concatenate(neurons),
    )


@dataclass(frozen=True)
class MaskPair:
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
    """Weights in both if the masks were independent with the same density per matrix."""
    ratio: float
    """shared / expected; 1 = chance."""
    jaccard: float
    """Shared weights over weights in either [fraction]."""
    jaccard_expected: float
    """The same at the expected number of shared weights [fraction]."""
    overlap_coefficient: float
    """Shared weights over the smaller mask [fraction]."""
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


def compare(first: MaskSummary, second: MaskSummary) -> MaskPair:
    """Return what two masks have in common, tested against independence.

    Null hypothesis, given each mask's weights per matrix: the masks are independent, so that the
    weights in both are a sum over matrices of hypergeometric numbers. Alternative: more in common.
    Exact: the matrices' distributions are convolved (tails beyond 12 standard deviations cut off).
    `p_holm` is left uncorrected here.

    Args:
        first: One mask.
        second: Another of the same model and matrices.

    Returns:
        The pair.

    Raises:
        ValueError: If the masks differ in model or matrices.
    """
    _require_comparable(first, second)
    shared = sum(
        int(np.bitwise_count(first.packed[name] & second.packed[name]).sum(dtype=np.int64))
        for name in first.packed
    )
    triples = [(size, n, second.sizes[name][1]) for name, (size, n) in first.sizes.items()]
    expected = sum(a * b / size for size, a, b in triples)
    variance = sum(_shared_variance(*triple) for triple in triples)
    sizes = [sum(n for _, n in mask.sizes.values()) for mask in (first, second)]
    p = _upper_tail(shared, triples)
    return MaskPair(
        first=first.name,
        second=second.name,
        kind=_kind(first, second),
        shared=shared,
        expected=expected,
        ratio=_ratio(shared, expected),
        jaccard=_ratio(shared, sum(sizes) - shared),
        jaccard_expected=_ratio(expected, sum(sizes) - expected),
        overlap_coefficient=_ratio(shared, min(sizes)),
        z=(shared - expected) / variance**0.5 if variance else 0.0,
        p=p,
        p_holm=p,
        head_correlation=_spearman(first.heads, second.heads),
        neuron_correlation=_spearman(first.neurons, second.neurons),
    )


def analyze_overlap(summaries: Sequence[MaskSummary]) -> dict[str, Any]:
    """Return all pairs of trained masks, and of each with the baselines of its target and seed.

    Args:
        summaries: The masks, all of one model.

    Returns:
        `pairs` (one `MaskPair` per row, Holm's correction over all of them) and `kinds` (kind ->
        number of pairs, mean Jaccard, mean of Jaccard and of shared weights over expected).

    Raises:
        ValueError: If the masks differ in model or matrices.
    """
    pairs = [
        compare(first, second)
        for first, second in combinations(summaries, 2)
        if "trained" in (first.method, second.method)
        and (
            first.method == second.method
            or (first.target, first.seed) == (second.target, second.seed)
        )
    ]
    corrected = holm([pair.p for pair in pairs])
    pairs = [replace(pair, p_holm=float(p)) for pair, p in zip(pairs, corrected, strict=True)]
    kinds = {}
    for kind in dict.fromkeys(pair.kind for pair in pairs):
        own = [pair for pair in pairs if pair.kind == kind]
        over = [pair.jaccard / pair.jaccard_expected for pair in own if pair.jaccard_expected]
        kinds[kind] = {
            "pairs": len(own),
            "jaccard": sum(pair.jaccard for pair in own) / len(own),
            "jaccard_over_expected": sum(over) / len(over) if over else 1.0,
            "shared_over_expected": sum(pair.ratio for pair in own) / len(own),
        }
    return {"kinds": kinds, "pairs": [asdict(pair) for pair in pairs]}


def _require_comparable(first: MaskSummary, second: MaskSummary) -> None:
    if first.model != second.model:
        raise ValueError(
            f"{first.name} and {second.name} are masks of two models: "
            f"{first.model[:12]} and {second.model[:12]}"
        )
    if differing := sorted(first.sizes.keys() ^ second.sizes.keys()):
        raise ValueError(f"{first.name} and {second.name} differ in matrices: {differing[0]}")


def _kind(first: MaskSummary, second: MaskSummary) -> str:
    if first.method != second.method:
        return "other method"
    return "other seed" if first.target == second.target else "other target"


def _ratio(part: int | float, whole: int | float) -> float:
    return part / whole if whole else 1.0


def _shared_variance(size: int, first: int, second: int) -> float:
    """Variance of the weights that two independent masks of one matrix share."""
    free = first * second * (size - first) * (size - second)
    return free / (size * size * max(size - 1, 1))


def _upper_tail(shared: int, triples: Sequence[tuple[int, int, int]]) -> float:
    """Probability of `shared` or more; triples: a matrix's size and its weights in either mask."""
    pmf, start = np.ones(1), 0
    for size, first, second in triples:
        mean = first * second / size
        reach = 12.0 * _shared_variance(size, first, second) ** 0.5 + 2
        low = max(0, first + second - size, int(mean - reach))
        high = min(first, second, int(mean + reach) + 1)
        own = np.exp(stats.hypergeom.logpmf(np.arange(low, high + 1), size, first, second))
        pmf = signal.convolve(pmf, own, method="direct")
        start += low
    tail = float(pmf[max(0, shared - start) :].sum())
    return min(1.0, tail) if tail > 1e-15 else 0.0


def _spearman(first: Values, second: Values) -> float:
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(stats.spearmanr(first, second).statistic)
