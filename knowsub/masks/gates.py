"""Gates: random variables in [0, 1] that say whether a weight belongs to the critical subnetwork.

Each estimator maps logits and uniform noise to a `Sample`: the value of the gate and its slope,
the (straight-through) derivative of that value by the logit. Nothing here knows a layer.

No layer is replaced. A step writes the remaining model's weights into buffers, which are installed
for the forward and backward pass; the gradient that arrives there, times the slope of the sample,
is that of the logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from knowsub.architectures import MaskableMatrix
from knowsub.masks.mask import Mask
from knowsub.masks.options import Estimator, Granularity
from knowsub.masks.weights import MaskedWeights, gate_slices

INSIDE = 1 - 2.0**-22
"""Width of the interval around 1/2 that noise lies in; next to 1, float32 has steps of 2^-24."""


class UniformNoise:
    """A stream of uniform noise between 0 and 1, never at either end.

    On a CPU it is SFC64 of Doty-Humphrey as numpy has it, 2.5 times as fast as torch's Mersenne
    twister; elsewhere it is torch's generator of the device. One seed gives different numbers on
    different devices.

    Args:
        seed: Seed of the stream.
        device: Where the noise is used.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._source: np.random.SFC64 | torch.Generator = (
            np.random.SFC64(seed)
            if self.device.type == "cpu"
            else torch.Generator(self.device).manual_seed(seed)
        )

    def uniform(self, count: int) -> Float[Tensor, " unit"]:
        """Return the next numbers, in steps of 2^-24 at the finest.

        Args:
            count: How many; on a CPU those drawn in several calls are the same as drawn in one, as
                long as all calls but the last ask for an even number.

        Returns:
            Numbers from 2^-23 to 1 - 2^-23.
        """
        if isinstance(self._source, torch.Generator):
            drawn = torch.rand(count, generator=self._source, device=self.device)
            return drawn.mul_(INSIDE).add_((1 - INSIDE) / 2)
        words = self._source.random_raw((count + 1) // 2).view(np.int32)[:count]
        return torch.from_numpy(words).float().mul_(INSIDE * 2.0**-32).add_(0.5)

    def get_state(self) -> Tensor:
        """Return where the stream stands, as a tensor on the CPU."""
        if isinstance(self._source, torch.Generator):
            return self._source.get_state()
        return torch.from_numpy(self._source.state["state"]["state"].view(np.int64).copy())

    def set_state(self, state: Tensor) -> None:
        """Continue where a stream of the same kind of device stood.

        Args:
            state: As `get_state` returned it.
        """
        if isinstance(self._source, torch.Generator):
            self._source.set_state(state)
            return
        words = state.numpy().view(np.uint64)
        self._source.state = self._source.state | {"state": {"state": words}}


STRETCH = (-0.1, 1.1)
"""Interval that the hard concrete gate is stretched to before it is clipped to [0, 1]."""

UNDECIDED = 0.2
"""|logit| below which a gate's probability lies in 0.45 to 0.55 [log-odds]."""
CHUNK = 1 << 17
"""Gates worked on at a time on a CPU, so that what lies between two steps stays in its cache."""
LARGE_CHUNK = 1 << 24
"""The same on a GPU, so that what lies between takes 64 MiB a tensor at most."""


@dataclass
class GateSample:
    """One draw of every gate."""

    value: Float[Tensor, " unit"]
    """Value of the gate in [0, 1]; 1 = the unit belongs to the critical subnetwork."""
    ste_grad: Float[Tensor, " unit"]
    """Derivative of the value by the logit, as the estimator defines it."""

    def drop_value(self) -> None:
        """Give back the memory of the values, which are of no more use."""
        del self.value

    def open_fraction(self) -> Float[Tensor, ""]:
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
    out: GateSample | None = None,
) -> GateSample:
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
    out = out or GateSample(torch.empty_like(logits), torch.empty_like(logits))
    if temperature == 1.0 and scale == 1.0:
        return _standard_gumbel_sigmoid(logits, uniform, out)
    shifted = logistic(uniform, scale).add_(logits).div_(temperature)
    torch.gt(shifted, 0, out=out.value)
    soft = shifted.sigmoid_()
    torch.addcmul(soft, soft, soft, value=-1, out=out.ste_grad).div_(temperature)
    return out


def _standard_gumbel_sigmoid(
    logits: Float[Tensor, " unit"], uniform: Float[Tensor, " unit"], out: GateSample
) -> GateSample:
    """Return the same at temperature and scale 1 with one transcendental function a gate.

    With c = sigmoid(-logit), a = (1 - c) u and b = c (1 - u), the soft sample is a / (a + b).
    """
    closed = torch.neg(logits, out=out.ste_grad).sigmoid_()
    outside = torch.addcmul(closed, closed, uniform, value=-1, out=out.value)
    inside = uniform.addcmul_(closed, uniform, value=-1)
    both = torch.add(outside, inside, out=out.ste_grad)
    torch.gt(inside, outside, out=out.value)
    soft = inside.div_(both)
    torch.addcmul(soft, soft, soft, value=-1, out=out.ste_grad)
    return out


def hard_concrete(
    logits: Float[Tensor, " unit"],
    uniform: Float[Tensor, " unit"],
    temperature: float = 2 / 3,
    scale: float = 1.0,
    out: GateSample | None = None,
) -> GateSample:
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
    out = out or GateSample(torch.empty_like(logits), torch.empty_like(logits))
    low, high = STRETCH
    soft = logistic(uniform, scale).add_(logits).div_(temperature).sigmoid_()
    stretched = soft * (high - low) + low
    inside = (stretched > 0) & (stretched < 1)
    torch.mul(soft * (1 - soft), (high - low) / temperature, out=out.ste_grad).mul_(inside)
    torch.clamp(stretched, 0, 1, out=out.value)
    return out


def open_probability(
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


def undecided_fraction(logits: Float[Tensor, " unit"], limit: float = UNDECIDED) -> float:
    """Return the share of the logits whose size is below a limit [fraction].

    Args:
        logits: Logits of the gates [log-odds].
        limit: The limit [log-odds].

    Returns:
        The share.
    """
    few = sum(int((logits[chunk].abs() < limit).count_nonzero()) for chunk in chunks(logits))
    return few / len(logits)


SAMPLERS: dict[Estimator, Callable[..., GateSample]] = {
    Estimator.GUMBEL_SIGMOID: gumbel_sigmoid,
    Estimator.HARD_CONCRETE: hard_concrete,
}


class Gates:
    """One logit per unit of the maskable matrices of a model.

    Args:
        model: The original model; it is read, never written.
        sites: The maskable matrices.
        unit: What one gate covers.
        estimator: How gates are sampled.
        initial: Initial probability of a gate being open, in (0, 1) [fraction].

    Raises:
        ValueError: If the unit does not fit the sites.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: tuple[MaskableMatrix, ...],
        unit: Granularity = Granularity.WEIGHT,
        estimator: Estimator = Estimator.GUMBEL_SIGMOID,
        initial: float = 0.45,
    ) -> None:
        self.model = model
        self.sites = sites
        self.estimator = estimator
        self.spans = gate_slices(sites, unit)
        count = max(span.start + span.size for span in self.spans)
        device = model.get_parameter(sites[0].parameter).device
        level = torch.logit(torch.tensor(float(initial), dtype=torch.float64)).item()
        self.logits = torch.full((count,), level, dtype=torch.float32, device=device)

    def sample(
        self,
        noise: UniformNoise,
        temperature: float = 1.0,
        scale: float = 1.0,
        out: GateSample | None = None,
    ) -> GateSample:
        """Return one draw of every gate.

        Args:
            noise: Source of randomness, on the logits' device.
            temperature: Temperature of the relaxation, above 0.
            scale: Factor of the noise, 0 to 1.
            out: An earlier draw that is no longer needed, to write this one into.

        Returns:
            Values and slopes of the gates.
        """
        logits, draw = self.logits, SAMPLERS[self.estimator]
        sample = out or GateSample(torch.empty_like(logits), torch.empty_like(logits))
        for chunk in chunks(self.logits):
            part, here = logits[chunk], GateSample(sample.value[chunk], sample.ste_grad[chunk])
            draw(part, noise.uniform(len(part)), temperature, scale, here)
        return sample

    def masked_weights(self, dtype: torch.dtype | None = None) -> MaskedWeights:
        """Return new buffers for the parameters that hold a site, to write samples into.

        Args:
            dtype: Theirs; None for that of the parameters.

        Returns:
            The buffers.
        """
        return MaskedWeights(self.model, self.spans, dtype)

    def add_sparsity_grad(
        self, gradient: Float[Tensor, " unit"], weight: float, temperature: float = 1.0
    ) -> Float[Tensor, ""]:
        """Add the weighted gradient of the sparsity term; return the term, where the gates are.

        Args:
            gradient: Gradient by the logits, added to in place and in closed form.
            weight: Coefficient of the term.
            temperature: Temperature of the relaxation; only the hard concrete gate depends on it.

        Returns:
            Mean probability of an open gate [fraction].
        """
        total = torch.zeros((), dtype=torch.float64, device=self.logits.device)
        for chunk in chunks(self.logits):
            chance = open_probability(self.logits[chunk], self.estimator, temperature)
            total += chance.sum()
            slope = chance.addcmul_(chance, chance, value=-1)
            gradient[chunk].add_(slope, alpha=weight / len(self.logits))
            del chance, slope  # before the next ones are made
        return total / len(self.logits)

    def hard_mask(self, limit: float = 1.0) -> Bool[Tensor, " unit"]:
        """Return the deterministic gates, 1[logit > 0], trimmed to the largest logits.

        Args:
            limit: Largest share of the gates that may be open [fraction].

        Returns:
            Which gates are open: never more than the positive logits, never more than the limit.
        """
        bits = self.logits > 0
        most = int(limit * len(bits))
        if int(bits.count_nonzero()) > most:
            positive = bits.nonzero()[:, 0]
            bits.zero_()[positive[self.logits[positive].topk(most).indices]] = True
        return bits

    def to_mask(self, bits: Bool[Tensor, " unit"], model: str, meta: dict[str, str]) -> Mask:
        """Return gates as a mask over weights.

        Args:
            bits: Which gates are open, from `hard_mask`.
            model: Fingerprint of the model.
            meta: How the mask was made.

        Returns:
            The mask, on the CPU.
        """
        expanded = {
            span.matrix.name: span.take(bits).expand(span.matrix.shape).bool().cpu().contiguous()
            for span in self.spans
        }
        return Mask(expanded, model, meta)
