"""The cross matrix: what removing the subnetwork of one target does to the facts of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from knowsub.plots.maps import Grid
from knowsub.report.collect import Item

OWN = "target_dnll"
"""The figure that stands on the diagonal."""
SMALLEST = 1e-3
"""Mean damage to other targets that is told from none [nats per token]."""


def matrices(items: Sequence[Item]) -> dict[int, Grid]:
    """Return the cross matrix of every seed.

    Args:
        items: All masks.

    Returns:
        Seed -> E[a, b], dNLL on target b after removing the subnetwork of a [nats per token], for
        the seeds of which every mask was asked about at least two targets.
    """
    targets = list(dict.fromkeys(item.target for item in items))
    found: dict[int, Grid] = {}
    for seed in dict.fromkeys(item.seed for item in items):
        rows = {
            item.target: {**item.cross, item.target: item.figures[OWN]}
            for item in items
            if item.seed == seed and OWN in item.figures
        }
        known = all(set(targets) <= row.keys() for row in rows.values())
        if len(targets) > 1 and rows.keys() == set(targets) and known:
            found[seed] = np.array([[rows[a][b] for b in targets] for a in targets])
    return found


def dominance(matrix: Grid) -> float:
    """Return the mean of a cross matrix's diagonal over the mean absolute value off it.

    Args:
        matrix: A square matrix over at least two targets [nats per token].

    Returns:
        The ratio; its denominator is at least 0.001 nat.
    """
    beside = np.abs(matrix[~np.eye(len(matrix), dtype=bool)])
    return float(matrix.diagonal().mean() / max(float(beside.mean()), SMALLEST))


def with_dominance(items: Sequence[Item]) -> list[Item]:
    """Return the masks with the figure `diagonal_dominance` of their seed, where it is known."""
    known: Mapping[int, float] = {seed: dominance(m) for seed, m in matrices(items).items()}
    return [
        replace(item, figures={**item.figures, "diagonal_dominance": known[item.seed]})
        if item.seed in known
        else item
        for item in items
    ]
