"""Whether a mask damages its own target and no other: the cross matrix and its diagonal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from knowsub.report.collect import MaskResult

Matrix = npt.NDArray[np.float64]
SMALLEST_DAMAGE = 1e-3
"""Least mean damage to other targets that the dominance divides by [nats per token]."""


def cross_matrices(results: Sequence[MaskResult]) -> dict[int, Matrix]:
    """Return seed -> E[a, b], dNLL of target b after removing the subnetwork of a [nats per token].

    Only seeds in which every mask was asked about every target, two at least.
    """
    targets = list(dict.fromkeys(result.target for result in results))
    matrices: dict[int, Matrix] = {}
    for seed in dict.fromkeys(result.seed for result in results):
        rows = {
            result.target: {**result.cross, result.target: result.metrics["target_dnll"]}
            for result in results
            if result.seed == seed and "target_dnll" in result.metrics
        }
        complete = all(set(targets) <= row.keys() for row in rows.values())
        if len(targets) > 1 and rows.keys() == set(targets) and complete:
            matrices[seed] = np.array([[rows[a][b] for b in targets] for a in targets])
    return matrices


def dominance(matrix: Matrix) -> float:
    """Return the mean of a cross matrix's diagonal over the mean absolute value off it."""
    off_diagonal = np.abs(matrix[~np.eye(len(matrix), dtype=bool)])
    return float(matrix.diagonal().mean() / max(float(off_diagonal.mean()), SMALLEST_DAMAGE))


def with_dominance(results: Sequence[MaskResult]) -> list[MaskResult]:
    """Return the masks with the `diagonal_dominance` of their seed, where it is known."""
    values = {seed: dominance(matrix) for seed, matrix in cross_matrices(results).items()}
    return [
        replace(result, metrics={**result.metrics, "diagonal_dominance": values[result.seed]})
        if result.seed in values
        else result
        for result in results
    ]
