"""How a coefficient changes over the steps: pure functions."""

from __future__ import annotations

from knowsub.discovery.options import TrainOptions
from knowsub.lm.schedule import lr_factor

RISE = 5.0
"""Factor by which steering raises the pressure at most."""
STEEPNESS = 30
"""Power that steering goes with: at 2.3 % above the aim the pressure is doubled."""


def ramp(step: int, steps: int, start: float, end: float, begin: float) -> float:
    """Return a value that stays at `start`, then moves linearly and arrives at `end`.

    Args:
        step: 0-based step.
        steps: Number of steps in all.
        start: Value up to `begin`.
        end: Value at the last step.
        begin: Share of the steps after which the value moves, 0 to 1 [fraction].

    Returns:
        The value at this step.

    Source:
        Bayazit et al. 2024, section 4: lambda is constant for half of the steps, then linear.
    """
    first = begin * steps
    last = steps - 1
    if step <= first or last <= first:
        return start if step <= first else end
    return start + (end - start) * (step - first) / (last - first)


def pressure(step: int, density: float, options: TrainOptions) -> float:
    """Return the coefficient of the sparsity term: a ramp, steered to a density if one is aimed at.

    It goes with a power of density over `options.aim_density`, `STEEPNESS`, up to `RISE` times, so
    that searches end near that density although targets differ in how many weights they take.

    Args:
        step: 0-based step.
        density: Share of open gates at the step before: as expected, or as drawn once the noise
            falls [fraction].
        options: The ramp, and the density aimed at.

    Returns:
        The coefficient.
    """
    ends = options.sparsity_start, options.sparsity_end
    plain = ramp(step, options.steps, *ends, options.sparsity_begin)
    aim = options.aim_density
    return plain * min(RISE, (density / aim) ** STEEPNESS) if aim else plain


def rate(step: int, options: TrainOptions) -> float:
    """Return the learning rate: up, level, and down to zero, so that the last masks settle.

    Args:
        step: 0-based step.
        options: The peak, and the shares of the steps over which it rises and falls.

    Returns:
        The learning rate [log-odds per step].
    """
    return options.lr * lr_factor(step, options.steps, options.warmup, options.decay)
