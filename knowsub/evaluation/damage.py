"""Methods compared at equal damage to the controls, whatever size that takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from knowsub.evaluation.bench import Bench
from knowsub.evaluation.perplexity import fact_difference
from knowsub.masks.mask import Mask


@dataclass(frozen=True)
class Damage:
    """What removing one mask did."""

    target: float
    """Mean dNLL over the target facts [nats per tail token]."""
    control: float
    """Mean dNLL over held-out control facts [nats per tail token]."""


def control_set(bench: Bench) -> str:
    """Return the set that damage to the controls is taken on: held-out facts where there are."""
    return "heldout" if "heldout" in bench.sets else "control"


def damage(bench: Bench, mask: Mask) -> Damage:
    """Return what removing a mask does to the target and to held-out control facts.

    Args:
        bench: The bench, its model at the original weights.
        mask: The mask.

    Returns:
        Both damages; control facts of the training split stand in where none are held out.
    """
    control = control_set(bench)
    with bench.removed(mask):
        now = bench.look(sets=("target", control), texts=())
    means = [
        float(fact_difference(bench.sets[name], now.sets[name], bench.original.sets[name]).mean())
        for name in ("target", control)
    ]
    return Damage(*means)


def at_equal_damage(sizes: Sequence[Damage], control: float) -> float:
    """Return how much a method damages the target when it damages the controls so much.

    Sizes are joined by straight lines, from no damage at size 0. Where damage to the controls
    does not grow with size, the better of the two sizes for the method counts.

    Args:
        sizes: Damage at each size that was tried.
        control: Damage to the controls at which methods are compared [nats per tail token].

    Returns:
        Damage to the target [nats per tail token]; beyond the largest size tried, that size's.
    """
    points = sorted([(0.0, 0.0), *((max(one.control, 0.0), one.target) for one in sizes)])
    at = np.array([point[0] for point in points])
    best = np.maximum.accumulate([point[1] for point in points])
    return float(np.interp(max(control, 0.0), at, best))
