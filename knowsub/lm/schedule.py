"""The learning rate over the steps of any training here."""

from __future__ import annotations


def warmup_stable_decay(step: int, steps: int, warmup: float, decay: float) -> float:
    """Return the share of the peak learning rate: up, level, and down to zero, in straight lines.

    Args:
        step: 0-based step.
        steps: Number of steps in all.
        warmup: Share of the steps over which it rises [fraction].
        decay: Share of the steps over which it falls at the end [fraction].

    Returns:
        The factor [fraction].
    """
    rise = (step + 1) / max(1.0, warmup * steps)
    fall = (steps - step) / max(1.0, decay * steps)
    return min(1.0, rise, fall)
