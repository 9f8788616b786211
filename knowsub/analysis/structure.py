"""How a critical subnetwork lies, against chance: placement, neurons and magnitudes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor, nn

from knowsub.analysis.placement import Counts, placements
from knowsub.architectures import MaskableMatrix
from knowsub.hypotheses import holm
from knowsub.masks.ablation import masked_matrices
from knowsub.masks.mask import Mask
from knowsub.masks.options import Granularity
from knowsub.masks.weights import gate_shape


def unit_counts(
    bits: Bool[Tensor, ...], matrix: MaskableMatrix, granularity: Granularity
) -> Counts:
    """Return how many of a mask's weights lie in each neuron or head of a matrix, in order."""
    gates = gate_shape(matrix, granularity)
    summed = tuple(axis for axis, size in enumerate(gates) if size != bits.shape[axis])
    counts = np.count_nonzero(bits.numpy(), axis=summed) if summed else bits.numpy()
    return np.asarray(counts, dtype=np.int64).reshape(-1)


def structure(mask: Mask, matrices: Sequence[MaskableMatrix]) -> dict[str, Any]:
    """Return where a mask lies, as one JSON object (errors: `masked_matrices`)."""
    covered = masked_matrices(matrices, mask)
    return {
        "size": mask.size,
        "maskable": mask.maskable,
        "sparsity": mask.sparsity,
        "groupings": {each.grouping: asdict(each) for each in placements(mask, covered)},
        "neurons": [asdict(row) for row in neuron_concentration(mask, covered)],
    }


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
