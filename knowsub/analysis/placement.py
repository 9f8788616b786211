"""Where a mask lies by block, module type and head, against chance: numpy alone.

Counting needs no model: `implied_matrices` tells heads and axes from a mask's names and shapes. The
command `show` reads this file, so it imports neither torch nor scipy.stats, which take seconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from scipy import special

from knowsub.architectures import ATTENTION, MaskableMatrix, ModuleType
from knowsub.hypotheses import holm

Counts = npt.NDArray[np.int64]
"""Whole numbers of weights."""
Values = npt.NDArray[np.float64]
"""Real numbers, one per group, head or neuron."""
EMBEDDING = "embedding"
"""Name of the input embedding in a mask, as in `masks.ablation`."""


@runtime_checkable
class HasBits(Protocol):
    """A mask: a `Mask`, or what was read of its file without torch."""

    @property
    def bits(self) -> Mapping[str, Any]:
        """Name of the matrix -> booleans of its shape, an array or a tensor on the CPU."""
        ...


def member_count(bits: Any) -> int:
    """Return how many bits are true."""
    return int(np.count_nonzero(np.asarray(bits)))


def per_head_counts(bits: Any, matrix: MaskableMatrix) -> Counts:
    """Return how many of a mask's weights lie in each head of a matrix of the attention."""
    head = matrix.axes.index("head")
    others = tuple(axis for axis in range(len(matrix.axes)) if axis != head)
    return np.asarray(np.count_nonzero(np.asarray(bits), axis=others), dtype=np.int64)


HeadCounts = dict[str, tuple[str, int, int]]
"""Name -> (kind, weights, weights of the mask)."""


def head_part_counts(mask: HasBits, matrices: Sequence[MaskableMatrix]) -> HeadCounts:
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
            counts = per_head_counts(mask.bits[matrix.name], matrix)
            for head, count in enumerate(counts):
                name = f"block {matrix.block} {kind} {head} {matrix.module_type}"
                parts[name] = ("head part", matrix.size // number, int(count))
    return parts


def head_counts(mask: HasBits, matrices: Sequence[MaskableMatrix]) -> HeadCounts:
    """Return the weights and the mask's weights of every attention head.

    The query, key, value and output slices of one head belong together; where key-value heads are
    shared by several query heads, they are heads of their own. Name such as `block 3 head 1` ->
    (kind `head` or `kv head`, weights, weights of the mask).
    """
    return _whole_heads(head_part_counts(mask, matrices))


def _whole_heads(parts: HeadCounts) -> HeadCounts:
    heads = HeadCounts()
    for part, (_, size, count) in parts.items():
        name = part.rpartition(" ")[0]
        kind = "kv head" if " kv head " in part else "head"
        _, weights, members = heads.get(name, (kind, 0, 0))
        heads[name] = (kind, weights + size, members + count)
    return heads


def _heads(matrix: MaskableMatrix) -> int:
    return matrix.shape[matrix.axes.index("head")]


def implied_matrices(mask: HasBits) -> tuple[MaskableMatrix, ...]:
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


def two_sided_p(members: Counts, total: int, weights: Counts, chosen: int) -> Values:
    """Return the exact two-sided p-values of hypergeometric numbers: twice the smaller tail.

    Args:
        members: Weights of the mask in each group.
        total: Weights of all groups.
        weights: Weights in each group.
        chosen: Weights of the mask.

    Returns:
        One p per group, uncorrected; `scipy.stats.hypergeom` gives the same.
    """
    groups = zip(members.tolist(), weights.tolist(), strict=True)
    return np.array([_two_sided_p(k, total, size, chosen) for k, size in groups])


def _two_sided_p(k: int, total: int, size: int, chosen: int) -> float:
    mean = chosen * size / total
    spread = (mean * (1 - size / total) * (total - chosen) / max(total - 1, 1)) ** 0.5
    reach = int(12 * spread) + 60  # beyond it nothing is left in double precision
    if k >= mean:
        at = np.arange(k, min(size, chosen, k + reach) + 1)
    else:
        at = np.arange(k, max(0, size + chosen - total, k - reach) - 1, -1)
    logs = _log_choose(size, at) + _log_choose(total - size, chosen - at)
    tail = np.exp(logs - _log_choose(total, np.array([chosen])))
    outer = float(tail.sum())  # the tail on the value's side of the mean
    return min(1.0, 2 * min(outer, 1 - outer + float(tail[0])))


def _log_choose(of: int, number: Counts) -> Values:
    """Return the logarithm of binomial coefficients."""
    return np.asarray(-np.log(of + 1) - special.betaln(of - number + 1, number + 1))


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
    p = two_sided_p(members, total, weights, chosen)
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
        p=float(special.chdtrc(degrees, chi2)) if degrees else 1.0,
        effect=float(np.sqrt(chi2 * (1 - chosen / total) / chosen)) if chosen else 0.0,
        groups=tuple(sorted(densities, key=lambda group: -group.z)),
    )


def placements(mask: HasBits, matrices: Sequence[MaskableMatrix]) -> tuple[Placement, ...]:
    """Return the placement of a mask by block, module type, matrix, head and part of a head.

    Args:
        mask: The mask.
        matrices: The maskable matrices of its model.

    Returns:
        One placement per grouping that has at least two groups.
    """
    covered = [matrix for matrix in matrices if matrix.name in mask.bits]
    groupings: dict[str, dict[str, tuple[int, int]]] = {}
    for matrix in covered:
        members = member_count(mask.bits[matrix.name])
        names = {"block": f"block {matrix.block}", "module_type": str(matrix.module_type)}
        names["matrix"] = f"{names['block']} {names['module_type']}"
        for grouping, name in names.items():
            groups = groupings.setdefault(grouping, {})
            weights, before = groups.get(name, (0, 0))
            groups[name] = (weights + matrix.size, before + members)
    parts = head_part_counts(mask, covered)
    for name, (kind, weights, members) in (_whole_heads(parts) | parts).items():
        groupings.setdefault(kind, {})[name] = (weights, members)
    return tuple(placement(name, groups) for name, groups in groupings.items() if len(groups) > 1)
