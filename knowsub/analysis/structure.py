"""Where a critical subnetwork lies: by block, module type, head and neuron, against chance.

Counting needs no model: `implied_matrices` tells heads and axes from a mask's names and shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor, nn

from knowsub.architectures import ATTENTION, MaskableMatrix, ModuleType
from knowsub.hypotheses import holm
from knowsub.masks.ablation import EMBEDDING, masked_matrices
from knowsub.masks.mask import Mask
from knowsub.masks.options import Granularity
from knowsub.masks.weights import gate_shape

Counts = npt.NDArray[np.int64]
"""Whole numbers of weights."""
Values = npt.NDArray[np.float64]
"""Real numbers, one per group, head or neuron."""


def unit_counts(
    bits: Bool[Tensor, ...], matrix: MaskableMatrix, granularity: Granularity
) -> Counts:
    """Return how many of a mask's weights lie in each neuron or head of a matrix, in order."""
    gates = gate_shape(matrix, granularity)
    summed = tuple(axis for axis, size in enumerate(gates) if size != bits.shape[axis])
    counts = np.count_nonzero(bits.numpy(), axis=summed) if summed else bits.numpy()
    return np.asarray(counts, dtype=np.int64).reshape(-1)


HeadCounts = dict[str, tuple[str, int, int]]
"""Name -> (kind, weights, weights of the mask)."""


def head_part_counts(mask: Mask, matrices: Sequence[MaskableMatrix]) -> HeadCounts:
    """Return the weights and the mask's weights of every head's query, key, value and output slice.

    Names such as `block 3 head 1 q`, of the kind `head part`. Where key-value heads are shared by
    several query heads, their names are such as `block 3 kv head 1 k`.
    """
    query_heads = {
        matrix.block: _heads(matrix)
        for matrix in matrices
        if matrix.module_type in (ModuleType.Q, ModuleType.OUTPUT)
    }
    parts = HeadCounts()
    for matrix in matrices:
        if "head" in matrix.axes:
            number = _heads(matrix)
            kind = "head" if number == query_heads.get(matrix.block, number) else "kv head"
            counts = unit_counts(mask.bits[matrix.name], matrix, Granularity.HEAD)
            for head, count in enumerate(counts):
                name = f"block {matrix.block} {kind} {head} {matrix.module_type}"
                parts[name] = ("head part", matrix.size // number, int(count))
    return parts


def head_counts(mask: Mask, matrices: Sequence[MaskableMatrix]) -> HeadCounts:
    """Return the weights and the mask's weights of every attention head.

    The query, key, value and output slices of one head belong together; where key-value heads are
    shared by several query heads, they are heads of their own. Name such as `block 3 head 1` ->
    (kind `head` or `kv head`, weights, weights of the mask).
    """
    heads = HeadCounts()
    for part, (_, size, count) in head_part_counts(mask, matrices).items():
        name = part.rpartition(" ")[0]
        kind = "kv head" if " kv head " in part else "head"
        _, weights, members = heads.get(name, (kind, 0, 0))
        heads[name] = (kind, weights + size, members + count)
    return heads


def _heads(matrix: MaskableMatrix) -> int:
    return matrix.shape[matrix.axes.index("head")]


def implied_matrices(mask: Mask) -> tuple[MaskableMatrix, ...]:
    """Return the matrices of a mask, inferred from its names and shapes alone.

    A hidden size is at least the number of heads and at least the size of a head, and an MLP is at
    least as wide as its input; so the long end of a shape is the hidden axis of an attention
    matrix, and the MLP's inner axis. A square MLP matrix is read as `in, out`.

    Args:
        mask: Any mask.

    Returns:
        Matrices without a parameter name: good for counting, not for removing.

    Raises:
        ValueError: If a matrix's name is not of the form `blocks.3.q`.
    """
    matrices = [_implied(name, tuple(bits.shape)) for name, bits in mask.bits.items()]
    order: list[ModuleType | None] = [None, *ModuleType]
    return tuple(sorted(matrices, key=lambda each: (each.block, order.index(each.module_type))))


def _implied(name: str, shape: tuple[int, ...]) -> MaskableMatrix:
    if name == EMBEDDING:
        return MaskableMatrix(name, "", -1, None, shape, None, ("in", "out"))
    match = re.fullmatch(r"blocks\.(\d+)\.(\w+)", name)
    if match is None or match[2] not in frozenset(ModuleType):
        raise ValueError(f"matrix {name!r} is not of the form 'blocks.<number>.<module type>'")
    module_type = ModuleType(match[2])
    axes: tuple[str, ...] = ("in", "out")
    if module_type in ATTENTION and len(shape) == 3:
        hidden = "out" if module_type is ModuleType.OUTPUT else "in"
        hidden_first = shape[0] >= shape[2]
        axes = (hidden, "head", "dim") if hidden_first else ("head", "dim", hidden)
    elif shape[0] != shape[-1] and (shape[0] < shape[-1]) == (module_type is ModuleType.MLP_OUT):
        axes = ("out", "in")
    return MaskableMatrix(name, "", int(match[1]), module_type, shape, None, axes)


def structure(mask: Mask, matrices: Sequence[MaskableMatrix]) -> dict[str, Any]:
    """Return where a mask lies, as one JSON object (errors: `placements`)."""
    return {
        "size": mask.size,
        "maskable": mask.maskable,
        "sparsity": mask.sparsity,
        "groupings": {each.grouping: asdict(each) for each in placements(mask, matrices)},
        "neurons": [asdict(row) for row in neuron_concentration(mask, matrices)],
    }


@dataclass(frozen=True)
class GroupDensity:
    """One group of weights, such as a block, and the share of it that belongs to the mask."""

    name: str
    """Name, such as `block 3` or `block 3 head 1`."""
    weights: int
    """Maskable weights in the group."""
    members: int
    """Weights of the mask in the group."""
    density: float
    """members / weights [fraction]."""
    enrichment: float
    """Density over the density of all groups together; 1 = as expected [ratio]."""
    z: float
    """Members above their expectation [standard deviations of the null]."""
    p: float
    """Two-sided p-value of the exact test, uncorrected."""
    p_holm: float
    """The same after Holm's correction over the groups."""


@dataclass(frozen=True)
class Placement:
    """How a mask is spread over the groups of one grouping."""

    grouping: str
    """`block`, `module_type`, `matrix`, `head`, `kv head` or `head part`."""
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


def placement(grouping: str, groups: Mapping[str, tuple[int, int]]) -> Placement:
    """Return how a mask's weights are spread over groups, tested against uniform placement.

    Null hypothesis, given the sizes: every set of as many weights is equally likely, so that a
    group's members are hypergeometric. Alternative: any other spread. The groups' tests are exact
    and two-sided (twice the smaller tail), corrected by Holm; the one over all groups is asymptotic
    (chi-square), not corrected. `groups`: name -> (weights, weights of the mask), at least one.
    """
    weights, members = np.array(list(groups.values()), dtype=np.int64).T
    total, chosen = int(weights.sum()), int(members.sum())
    expected: Values = weights.astype(np.float64) * (chosen / total)
    variance = expected * (1 - weights / total) * (total - chosen) / max(total - 1, 1)
    z = np.divide(members - expected, np.sqrt(variance), where=variance > 0, out=0.0 * expected)
    below = stats.hypergeom.cdf(members, total, weights, chosen)
    above = stats.hypergeom.sf(members - 1, total, weights, chosen)
    p = np.clip(2 * np.minimum(below, above), 0.0, 1.0)
    densities = [
        GroupDensity(
            name=name,
            weights=int(weights[i]),
            members=int(members[i]),
            density=float(members[i] / weights[i]),
            enrichment=float(members[i] / expected[i]) if expected[i] else 1.0,
            z=float(z[i]),
            p=float(p[i]),
            p_holm=float(corrected),
        )
        for i, (name, corrected) in enumerate(zip(groups, holm(p), strict=True))
    ]
    chi2, degrees = 0.0, len(groups) - 1
    if 0 < chosen < total:
        raw = float(((members - expected) ** 2 / expected).sum())
        chi2 = raw * (total - 1) / (total - chosen)
    return Placement(
        grouping=grouping,
        chi2=chi2,
        degrees=degrees,
        p=float(stats.chi2.sf(chi2, degrees)) if degrees else 1.0,
        effect=float(np.sqrt(chi2 * (1 - chosen / total) / chosen)) if chosen else 0.0,
        groups=tuple(sorted(densities, key=lambda group: -group.z)),
    )


def placements(mask: Mask, matrices: Sequence[MaskableMatrix]) -> tuple[Placement, ...]:
    """Return the placement of a mask by block, module type, matrix, head and part of a head.

    Args:
        mask: The mask.
        matrices: The maskable matrices of its model.

    Returns:
        One placement per grouping that has at least two groups.

    Raises:
        ValueError: If the mask has a matrix that is not among them.
    """
    covered = masked_matrices(matrices, mask)
    groupings: dict[str, dict[str, tuple[int, int]]] = {}
    for matrix in covered:
        members = int(mask.bits[matrix.name].sum())
        names = {"block": f"block {matrix.block}", "module_type": str(matrix.module_type)}
        names["matrix"] = f"{names['block']} {names['module_type']}"
        for grouping, name in names.items():
            groups = groupings.setdefault(grouping, {})
            weights, before = groups.get(name, (0, 0))
            groups[name] = (weights + matrix.size, before + members)
    heads = head_counts(mask, covered) | head_part_counts(mask, covered)
    for name, (kind, weights, members) in heads.items():
        groupings.setdefault(kind, {})[name] = (weights, members)
    return tuple(placement(name, groups) for name, groups in groupings.items() if len(groups) > 1)


@dataclass(frozen=True)
class Concentration:
    """How unevenly a mask's weights in one matrix lie over its neurons."""

    matrix: str
    """Name of the matrix."""
    direction: str
    """`input` or `output`: the neurons read from, or written to."""
    neurons: int
    """Number of neurons."""
    dead: int
    """Neurons all of whose weights in the matrix belong to the mask."""
    gini: float
    """Gini coefficient of the members per neuron: 0 = even, towards 1 = in one neuron."""
    gini_uniform: float
    """Its expectation under uniform placement within the matrix."""
    top_share: float
    """Share of the members in the fullest 1 % of the neurons (at least one) [fraction]."""
    top_share_uniform: float
    """Its expectation under uniform placement within the matrix [fraction]."""
    p: float
    """Upper-tail p-value of the index of dispersion (chi-square)."""
    p_holm: float
    """The same after Holm's correction over all matrices and directions of the mask."""


def neuron_concentration(mask: Mask, matrices: Sequence[MaskableMatrix]) -> list[Concentration]:
    """Return how few neurons carry a mask: two rows per matrix, Holm's correction over all rows."""
    rows = [
        concentration(
            matrix.name, str(unit), unit_counts(mask.bits[matrix.name], matrix, unit), matrix.size
        )
        for matrix in masked_matrices(matrices, mask)
        for unit in (Granularity.INPUT, Granularity.OUTPUT)
    ]
    corrected = holm([row.p for row in rows])
    return [replace(row, p_holm=float(p)) for row, p in zip(rows, corrected, strict=True)]


def concentration(matrix: str, direction: str, members: Counts, weights: int) -> Concentration:
    """Return how unevenly a matrix's members lie over its neurons, which are of one size.

    Null hypothesis: given the members of the matrix, every set of as many of its weights is equally
    likely. Alternative: more uneven. Asymptotic (chi-square, corrected for drawing without
    replacement); `p_holm` is not corrected yet. The expectations take each neuron's members as
    hypergeometric. `members`: the mask's weights in each neuron; `weights`: the matrix's size.
    """
    neurons, chosen = len(members), int(members.sum())
    dead = int((members == weights // neurons).sum())
    top = max(1, round(0.01 * neurons))
    if chosen in (0, weights) or neurons < 2:
        even = top / neurons
        return Concentration(matrix, direction, neurons, dead, 0.0, 0.0, even, even, 1.0, 1.0)
    mean = chosen / neurons
    dispersion = float(((members - mean) ** 2).sum()) / mean * (weights - 1) / (weights - chosen)
    p = float(stats.chi2.sf(dispersion, neurons - 1))
    support = np.arange(int(mean + 12 * mean**0.5) + 40)
    below = np.asarray(stats.hypergeom.cdf(support, weights, weights // neurons, chosen))
    # The number of neurons above k members is binomial, so the expected sum of the `top` largest is
    # the sum over k of the expectation of min(top, that number).
    at_least = stats.binom.sf(np.arange(top)[:, None], neurons, 1 - below[None, :])
    return Concentration(
        matrix=matrix,
        direction=direction,
        neurons=neurons,
        dead=dead,
        gini=gini(members),
        gini_uniform=float((below * (1 - below)).sum() / mean),
        top_share=float(np.sort(members)[-top:].sum() / chosen),
        top_share_uniform=float(np.sum(at_least)) / chosen,
        p=p,
        p_holm=p,
    )


def gini(values: Counts) -> float:
    """Return the mean absolute difference of two random values over twice the mean, 0 if none."""
    ordered = np.sort(values).astype(np.float64)
    total, size = ordered.sum(), len(ordered)
    if total == 0:
        return 0.0
    ranks = np.arange(1, size + 1)
    return float(2 * (ranks * ordered).sum() / (size * total) - (size + 1) / size)


@dataclass(frozen=True)
class MagnitudeTest:
    """Magnitudes of removed against kept weights, each as a quantile of its own matrix."""

    ks: float
    """Kolmogorov-Smirnov distance of removed from kept [0 to 1]."""
    p: float
    """Its two-sided p-value (asymptotic)."""
    mean_quantile: float
    """Mean quantile of a removed weight among its matrix's magnitudes; 0.5 = no relation."""
    by_matrix: Mapping[str, float]
    """Matrix -> Kolmogorov-Smirnov distance within that matrix."""


def magnitude_quantiles(
    model: nn.Module, matrices: Sequence[MaskableMatrix]
) -> dict[str, Float[Tensor, ...]]:
    """Return every maskable weight's magnitude as its quantile within its matrix, in (0, 1]."""
    quantiles = {}
    for matrix in matrices:
        stored = model.get_parameter(matrix.parameter).detach()
        order = matrix.view(stored).abs().flatten().argsort(stable=True)
        ranks = torch.empty(len(order), dtype=torch.float32)
        ranks[order] = torch.arange(1, len(order) + 1, dtype=torch.float32) / len(order)
        quantiles[matrix.name] = ranks.view(matrix.shape)
    return quantiles


def magnitude_test(
    mask: Mask, matrices: Sequence[MaskableMatrix], quantiles: Mapping[str, Float[Tensor, ...]]
) -> MagnitudeTest:
    """Return whether a mask's weights differ in magnitude from the others of the same matrix.

    Two-sample Kolmogorov-Smirnov test. Null hypothesis: removed and kept weights of a matrix have
    magnitudes of one distribution. Alternative: two different ones. Asymptotic; one test per mask,
    not corrected. Taking `magnitude_quantiles` first keeps matrices of different scale or density
    from mimicking a difference.
    """
    by_matrix, parts, total = {}, [torch.zeros(0)], 0
    for matrix in masked_matrices(matrices, mask):
        part = quantiles[matrix.name][mask.bits[matrix.name]].sort().values
        by_matrix[matrix.name] = _ks_distance(part, matrix.size)
        parts.append(part)
        total += matrix.size
    removed = torch.cat(parts).sort().values
    ks, kept = _ks_distance(removed, total), total - len(removed)
    if not len(removed) or not kept:
        return MagnitudeTest(ks, 1.0, float(removed.mean()) if len(removed) else 0.5, by_matrix)
    effective = len(removed) * kept / (len(removed) + kept)
    p = float(np.clip(stats.kstwobign.sf(ks * np.sqrt(effective)), 0.0, 1.0))
    return MagnitudeTest(ks, p, float(removed.mean()), by_matrix)


def _ks_distance(removed: Float[Tensor, " removed"], total: int) -> float:
    """Return the Kolmogorov-Smirnov distance of removed from kept, given the former's quantiles."""
    number = len(removed)
    if number in (0, total):
        return 0.0
    # Removed and kept together have uniform quantiles, so with density d the gap between removed
    # and all is (1 - d) times the gap between removed and kept: the kept ones need not be sorted.
    quantiles = removed.double()
    steps = torch.arange(number + 1, dtype=torch.float64) / number
    above = float((steps[1:] - quantiles).max())
    below = float((quantiles - 1 / total - steps[:-1]).max())
    return max(0.0, above, below) * total / (total - number)
