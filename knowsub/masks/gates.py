"""Gates: random variables in [0, 1] that say whether a unit belongs to the critical subnetwork.

Each estimator maps logits and uniform noise to a `Sample`: the value of the gate and its slope,
the (straight-through) derivative of that value by the logit. Nothing here knows a layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from knowsub.masks.kinds import Estimator

STRETCH = (-0.1, 1.1)
"""Interval that the hard concrete gate is stretched to before it is clipped to [0, 1]."""

UNDECIDED = 0.2
"""|logit| below which a gate's probability lies in 0.45 to 0.55 [log-odds]."""
CHUNK = 1 << 17
"""Gates worked on at a time on a CPU, so that what lies between two steps stays in its cache."""
LARGE_CHUNK = 1 << 24
"""The same on a GPU, so that what lies between takes 64 MiB a tensor at most."""


@dataclass
class Sample:
    """One draw of every gate."""

    value: Float[Tensor, " unit"]
    """Value of the gate in [0, 1]; 1 = the unit belongs to the critical subnetwork."""
    slope: Float[Tensor, " unit"]
    """Derivative of the value by the logit, as the estimator defines it."""

    def drop_value(self) -> None:
        """Give back the memory of the values, which are of no more use."""
        del self.value

    def open_share(self) -> Float[Tensor, ""]:
        """Return the share of gates that are not 0 [fraction], where they are."""
        return self.value.count_nonzero().double() / len(self.value)


def logistic(uniform: Float[Tensor, " unit"], scale: float) -> Float[Tensor, " unit"]:
    """Return logistic noise of a given scale [log-odds] from uniform noise in (0, 1).

    Args:
        uniform: Uniform noise; values at the ends are pulled inside. It is written over.
        scale: Factor of the noise; 1 is the standard logistic, 0 is none.

    Returns:
        Noise to add to the logits.
    """
    return uniform.logit_(eps=1e-7).mul_(scale)


def gumbel_sigmoid(
    logits: Float[Tensor, " unit"],
    uniform: Float[Tensor, " unit"],
    temperature: float = 1.0,
    scale: float = 1.0,
    out: Sample | None = None,
) -> Sample:
    """Return hard bits with the slope of the soft sample (straight-through).

    The soft sample is s = sigmoid((logit + noise) / temperature); the value is 1[s > 0.5].

    Args:
        logits: Logits of the gates [log-odds].
        uniform: Uniform noise in (0, 1), both ends excluded; it is written over.
        temperature: Temperature, above 0.
        scale: Factor of the logistic noise, 0 to 1.
        out: Where to write them; None for new tensors.

    Returns:
        The hard bits as floats, and ds/dlogit.

    Source:
        Bayazit et al. 2024, section 3; Jang et al. 2017 for the relaxation.
    """
    out = out or Sample(torch.empty_like(logits), torch.empty_like(logits))
    if temperature == 1.0 and scale == 1.0:
        return _standard_gumbel_sigmoid(logits, uniform, out)
    shifted = logistic(uniform, scale).add_(logits).div_(temperature)
    torch.gt(shifted, 0, out=out.value)
    soft = shifted.sigmoid_()
    torch.addcmul(soft, soft, soft, value=-1, out=out.slope).div_(temperature)
    return out


def _standard_gumbel_sigmoid(
    logits: Float[Tensor, " unit"], uniform: Float[Tensor, " unit"], out: Sample
) -> Sample:
    """Return the same at temperature and scale 1 with one transcendental function a gate.

    With c = sigmoid(-logit), a = (1 - c) u and b = c (1 - u), the soft sample is a / (a + b).
    """
    closed = torch.neg(logits, out=out.slope).sigmoid_()
    outside = torch.addcmul(closed, closed, uniform, value=-1, out=out.value)
    inside = uniform.addcmul_(closed, uniform, value=-1)
    both = torch.add(outside, inside, out=out.slope)
    torch.gt(inside, outside, out=out.value)
    soft = inside.div_(both)
    torch.addcmul(soft, soft, soft, value=-1, out=out.slope)
    return out


def hard_concrete(
    logits: Float[Tensor, " unit"],
    uniform: Float[Tensor, " unit"],
    temperature: float = 2 / 3,
    scale: float = 1.0,
    out: Sample | None = None,
) -> Sample:
    """Return gates that are exactly 0 or 1 with positive probability, and their true derivative.

    Args:
        logits: Logits of the gates [log-odds].
        uniform: Uniform noise in (0, 1); it is written over.
        temperature: Temperature, above 0.
        scale: Factor of the logistic noise, 0 to 1.
        out: Where to write them; None for new tensors.

    Returns:
        The clipped, stretched samples and their derivative by the logit.

    Source:
        Louizos et al. 2018, equations 10 and 11.
    """
    out = out or Sample(torch.empty_like(logits), torch.empty_like(logits))
    low, high = STRETCH
    soft = logistic(uniform, scale).add_(logits).div_(temperature).sigmoid_()
    stretched = soft * (high - low) + low
    inside = (stretched > 0) & (stretched < 1)
    torch.mul(soft * (1 - soft), (high - low) / temperature, out=out.slope).mul_(inside)
    torch.clamp(stretched, 0, 1, out=out.value)
    return out


def expected_open(
    logits: Float[Tensor, " unit"], estimator: Estimator, temperature: float
) -> Float[Tensor, " unit"]:
    """Return the probability that each gate is not 0, in closed form.

    Args:
        logits: Logits of the gates [log-odds].
        estimator: How the gates are sampled.
        temperature: Temperature of the sample; the Gumbel-sigmoid's hard bit does not depend on it.

    Returns:
        Probabilities [fraction].

    Source:
        Louizos et al. 2018, equation 12, for the hard concrete gate.
    """
    if estimator is Estimator.GUMBEL_SIGMOID:
        return torch.sigmoid(logits)
    low, high = STRETCH
    return torch.sigmoid(logits - temperature * math.log(-low / high))


def chunks(logits: Float[Tensor, " unit"]) -> list[slice]:
    """Return slices of a vector that are worked on one after the other."""
    total = len(logits)
    size = CHUNK if logits.device.type == "cpu" else LARGE_CHUNK
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def undecided(logits: Float[Tensor, " unit"], limit: float = UNDECIDED) -> float:
    """Return the share of the logits whose size is below a limit [fraction].

    Args:
        logits: Logits of the gates [log-odds].
        limit: The limit [log-odds].

    Returns:
        The share.
    """
    few = sum(int((logits[chunk].abs() < limit).count_nonzero()) for chunk in chunks(logits))
    return few / len(logits)


SAMPLERS: dict[Estimator, Callable[..., Sample]] = {
    Estimator.GUMBEL_SIGMOID: gumbel_sigmoid,
    Estimator.HARD_CONCRETE: hard_concrete,
}
