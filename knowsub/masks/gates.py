"""Gates: random variables in [0, 1] that say whether a weight belongs to the critical subnetwork.

An estimator maps logits [log-odds] and uniform noise to a `GateSample`: the value of every gate and
the (straight-through) derivative of that value by the logit. Estimators know nothing of layers;
`MaskedWeights` applies the values to a model and returns the gradient by them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int32
from torch import Tensor, nn

from knowsub.architectures import MaskableMatrix
from knowsub.masks.mask import Mask, PackedBits
from knowsub.masks.options import Estimator, Granularity
from knowsub.masks.shards import Shards, shard_slices
from knowsub.masks.trim import pack_largest
from knowsub.masks.weights import MaskedWeights, Sliceable, gate_slices


class UniformNoise:
    """A stream of uniform noise in (0, 1), both ends excluded.

    On a CPU it is numpy's SFC64, 2.5 times as fast as torch's Mersenne twister; elsewhere it is
    torch's generator of the device. One seed gives different numbers on different devices.

    Args:
        seed: Seed of the stream, one number or several.
        device: Where the noise is used.
    """

    WIDTH = 1 - 2.0**-22  # of the interval around 1/2; next to 1, float32 has steps of 2^-24

    def __init__(self, seed: int | Sequence[int], device: torch.device | str = "cpu") -> None:
        self.seed, self.device = seed, torch.device(device)
        self._source: np.random.SFC64 | torch.Generator | None = None  # of shapes alone on meta
        if self.device.type == "cpu":
            self._source = np.random.SFC64(seed)
        elif self.device.type != "meta":
            mixed = np.random.SeedSequence(seed).generate_state(1, np.uint64)
            number = seed if isinstance(seed, int) else int(mixed[0])
            self._source = torch.Generator(self.device).manual_seed(number)

    def at(self, *place: int) -> UniformNoise:
        """Return the stream of a place, such as a step and a gate, from its beginning.

        It depends on nothing but the seed and the place, so that it can be drawn again; other
        places have independent streams.
        """
        seed = (self.seed,) if isinstance(self.seed, int) else self.seed
        return type(self)((*seed, *place), self.device)

    def uniform(self, count: int) -> Float[Tensor, " gate"]:
        """Return the next numbers, 2^-23 to 1 - 2^-23 in steps of 2^-24 at the finest.

        Args:
            count: How many. On a CPU, several calls draw the same numbers as one, as long as all
                calls but the last ask for an even number.

        Returns:
            The numbers, on the stream's device.
        """
        if not isinstance(self._source, np.random.SFC64):
            drawn = torch.rand(count, generator=self._source, device=self.device)
            return drawn.mul_(self.WIDTH).add_((1 - self.WIDTH) / 2)
        # 32-bit integers, scaled to (-1/2, 1/2)
        return self.words(count).float().mul_(self.WIDTH * 2.0**-32).add_(0.5)

    def words(self, count: int) -> Int32[Tensor, " gate"]:
        """Return the next numbers as 32 random bits each (arguments as for `uniform`)."""
        if not isinstance(self._source, np.random.SFC64):
            drawn = torch.empty(count, dtype=torch.int32, device=self.device)
            return drawn.random_(-(2**31), 2**31, generator=self._source)
        # each raw 64-bit word is two signed 32-bit integers
        return torch.from_numpy(self._source.random_raw((count + 1) // 2).view(np.int32)[:count])

    def get_state(self) -> Tensor:
        """Return the state of the stream, as a tensor on the CPU."""
        if isinstance(self._source, torch.Generator):
            return self._source.get_state()
        assert self._source is not None, "shapes have no noise"
        return torch.from_numpy(self._source.state["state"]["state"].view(np.int64).copy())

    def set_state(self, state: Tensor) -> None:
        """Continue from a state that `get_state` returned on the same type of device."""
        if isinstance(self._source, torch.Generator):
            self._source.set_state(state)
        elif self._source is not None:
            words = state.numpy().view(np.uint64)
            self._source.state = self._source.state | {"state": {"state": words}}


@dataclass
class GateSample:
    """One sample of every gate."""

    value: Float[Tensor, " gate"]
    """Value of the gate in [0, 1]; 1 = its weights belong to the critical subnetwork."""
    ste_grad: Float[Tensor, " gate"]
    """Derivative of the value by the logit, straight-through where the value is a hard bit."""

    @classmethod
    def empty(cls, logits: Float[Tensor, " gate"]) -> GateSample:
        """Return a sample to write into."""
        return cls(torch.empty_like(logits), torch.empty_like(logits))

    def open_fraction(self) -> Float[Tensor, ""]:
        """Return the share of gates that are not 0 [fraction], on the gates' device."""
        return self.value.count_nonzero().double() / len(self.value)


def _logistic_(uniform: Float[Tensor, " gate"], scale: float) -> Float[Tensor, " gate"]:
    """Turn uniform into logistic noise [log-odds] in place, times `scale`; 0 is no noise."""
    return uniform.logit_(eps=1e-7).mul_(scale)


def gumbel_sigmoid(
    logits: Float[Tensor, " gate"],
    uniform: Float[Tensor, " gate"],
    temperature: float = 1.0,
    scale: float = 1.0,
    out: GateSample | None = None,
) -> GateSample:
    """Return hard bits with the gradient of the soft sample (straight-through).

    The soft sample is s = sigmoid((logit + noise) / temperature); the value is 1[s > 0.5].

    Args:
        logits: Logits of the gates [log-odds].
        uniform: Uniform noise in (0, 1), both ends excluded; it is overwritten.
        temperature: Temperature, above 0.
        scale: Factor of the logistic noise, 0 to 1.
        out: Where to write the sample; None for new tensors.

    Returns:
        The hard bits as floats, and ds/dlogit = s (1 - s) / temperature.

    Source:
        Bayazit et al. 2024, section 3; Jang et al. 2017 for the relaxation.
    """
    out = out or GateSample.empty(logits)
    if temperature == 1.0 and scale == 1.0:
        soft = _standard_gumbel_sigmoid(logits, uniform, out)
    else:
        shifted = _logistic_(uniform, scale).add_(logits).div_(temperature)
        torch.gt(shifted, 0, out=out.value)
        soft = shifted.sigmoid_()
    torch.addcmul(soft, soft, soft, value=-1, out=out.ste_grad)  # s - s^2
    if temperature != 1.0:
        out.ste_grad.div_(temperature)
    return out


def _standard_gumbel_sigmoid(
    logits: Float[Tensor, " gate"], uniform: Float[Tensor, " gate"], out: GateSample
) -> Float[Tensor, " gate"]:
    """Write the bits and return the soft sample at temperature and scale 1.

    One transcendental function per gate instead of two: with c = sigmoid(-logit), a = (1 - c) u
    and b = c (1 - u), the soft sample is a / (a + b), above 0.5 if a > b.
    """
    c = torch.neg(logits, out=out.ste_grad).sigmoid_()
    b = torch.addcmul(c, c, uniform, value=-1, out=out.value)
    a = uniform.addcmul_(c, uniform, value=-1)
    total = torch.add(b, a, out=out.ste_grad)  # c is no longer needed
    torch.gt(a, b, out=out.value)
    return a.div_(total)


STRETCH = (-0.1, 1.1)  # a soft sample is stretched to it, then clipped to [0, 1]


def hard_concrete(
    logits: Float[Tensor, " gate"],
    uniform: Float[Tensor, " gate"],
    temperature: float = 2 / 3,
    scale: float = 1.0,
    out: GateSample | None = None,
) -> GateSample:
    """Return gates that are exactly 0 or 1 with positive probability, and their true derivative.

    Arguments as for `gumbel_sigmoid`. Source: Louizos et al. 2018, equations 10 and 11.
    """
    out = out or GateSample.empty(logits)
    low, high = STRETCH
    soft = _logistic_(uniform, scale).add_(logits).div_(temperature).sigmoid_()
    stretched = soft * (high - low) + low
    unclipped = (stretched > 0) & (stretched < 1)
    torch.mul(soft * (1 - soft), (high - low) / temperature, out=out.ste_grad).mul_(unclipped)
    torch.clamp(stretched, 0, 1, out=out.value)
    return out


SAMPLERS: dict[Estimator, Callable[..., GateSample]] = {
    Estimator.GUMBEL_SIGMOID: gumbel_sigmoid,
    Estimator.HARD_CONCRETE: hard_concrete,
}


def open_probability(
    logits: Float[Tensor, " gate"], estimator: Estimator, temperature: float
) -> Float[Tensor, " gate"]:
    """Return the probability that each gate is not 0 [fraction], in closed form.

    The Gumbel-sigmoid's hard bit does not depend on the temperature.

    Source: Louizos et al. 2018, equation 12, for the hard concrete gate.
    """
    if estimator is Estimator.GUMBEL_SIGMOID:
        return torch.sigmoid(logits)
    low, high = STRETCH
    return torch.sigmoid(logits - temperature * math.log(-low / high))


CPU_CHUNK = 1 << 17  # gates worked on at a time, so that intermediate values stay in the cache
GPU_CHUNK = 1 << 24  # intermediate values take 64 MiB a tensor at most
GPU_PIECE = 1 << 22  # the same where memory is short: 16 MiB
ALL = slice(None)


def chunks(logits: Float[Tensor, " gate"]) -> list[slice]:
    """Return slices of a vector that are worked on one after the other."""
    total = len(logits)
    size = CPU_CHUNK if logits.device.type == "cpu" else GPU_CHUNK
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


PROBABILITY_SHARES = {
    "p_le_0.01": (0.0, 0.01),
    "p_le_0.2": (0.0, 0.2),
    "undecided": (0.45, 0.55),
    "p_ge_0.8": (0.8, 1.0),
    "p_ge_0.99": (0.99, 1.0),
}
"""Name of a share of the gates -> least and greatest probability sigmoid(logit) in it [fraction].

Source: the reference code prints these five at every evaluation.
"""


def probability_shares(
    logits: Float[Tensor, " gate"], shards: Shards | None = None
) -> dict[str, float]:
    """Return the histogram of the gates' probabilities: name of each share -> share [fraction].

    With shards, the logits are those of a process, and the shares those of all.
    """
    ends = torch.tensor(list(PROBABILITY_SHARES.values()), dtype=torch.float64).logit().float()
    counts = [0] * len(ends)
    for chunk in chunks(logits):
        for index, (low, high) in enumerate(ends.tolist()):
            within = (logits[chunk] >= low) & (logits[chunk] <= high)
            counts[index] += int(within.count_nonzero())
    found = (shards or Shards()).total(torch.tensor([*counts, len(logits)])).tolist()
    names = zip(PROBABILITY_SHARES, found[:-1], strict=True)
    return {name: count / found[-1] for name, count in names}


class Gates:
    """One logit per gate over the maskable matrices of a model.

    Args:
        model: The original model; it is read, never written.
        matrices: The maskable matrices.
        granularity: What one gate covers.
        estimator: How gates are sampled.
        init_prob: Initial probability of a gate being open, in (0, 1) [fraction].
        shards: The parts that the gates are divided into, of which this process has some; None for
            all gates as one. Each weight has its own gate where there are several.

    Raises:
        ValueError: If the granularity does not fit the matrices, or the parts do not.
    """

    def __init__(
        self,
        model: nn.Module,
        matrices: tuple[MaskableMatrix, ...],
        granularity: Granularity = Granularity.WEIGHT,
        estimator: Estimator = Estimator.GUMBEL_SIGMOID,
        init_prob: float = 0.45,
        shards: Shards | None = None,
    ) -> None:
        self.model, self.matrices, self.estimator = model, matrices, estimator
        self.shards = shards or Shards()
        self._whole = gate_slices(matrices, granularity)
        shapes = {each.parameter: model.get_parameter(each.parameter).shape for each in matrices}
        self.slices, self._places = shard_slices(self._whole, shapes, self.shards)
        count = max(each.start + each.size for each in self.slices)
        self.total = count * self.shards.processes  # in all processes
        self.first = count * self.shards.rank  # gate of this process among all
        device = model.get_parameter(matrices[0].parameter).device
        logit = torch.logit(torch.tensor(float(init_prob), dtype=torch.float64)).item()
        self.logits = torch.full((count,), logit, dtype=torch.float32, device=device)

    def sample(
        self,
        noise: UniformNoise,
        temperature: float = 1.0,
        scale: float = 1.0,
        out: GateSample | None = None,
        part: slice = ALL,
    ) -> GateSample:
        """Return one sample of every gate, or of some.

        Args:
            noise: Source of randomness, on the logits' device.
            temperature: Temperature of the relaxation, above 0.
            scale: Factor of the noise, 0 to 1.
            out: An earlier sample of as many to overwrite; None for new tensors.
            part: Which gates.

        Returns:
            Values and gradients of the gates.
        """
        all_logits = self.logits[part]
        sampler, out = SAMPLERS[self.estimator], out or GateSample.empty(all_logits)
        for chunk in chunks(all_logits):
            logits, view = all_logits[chunk], GateSample(out.value[chunk], out.ste_grad[chunk])
            sampler(logits, noise.uniform(len(logits)), temperature, scale, view)
        return out

    def masked_weights(
        self, dtype: torch.dtype | None = None, *, in_pieces: bool = False
    ) -> MaskedWeights:
        """Return new masked weights of a dtype, None for the parameters' own, for these gates.

        If `in_pieces`, they are written and read in pieces small enough to be drawn again.
        """
        on_cpu = self.logits.device.type == "cpu"
        piece = (CPU_CHUNK if on_cpu else GPU_PIECE) if in_pieces else None
        return MaskedWeights(self.model, self.slices, dtype, piece)

    def add_sparsity_grad(
        self,
        grad: Float[Tensor, " gate"],
        coefficient: float,
        temperature: float = 1.0,
        part: slice = ALL,
    ) -> Float[Tensor, ""]:
        """Add the gradient of the sparsity term by the logits, in closed form; return the term.

        With p = sigmoid(logit + c): d p / d logit = p (1 - p).

        Args:
            grad: Gradient by the logits, added to in place.
            coefficient: Coefficient of the term.
            temperature: Temperature of the relaxation; only the hard concrete gate depends on it.
            part: Which gates the gradient is of.

        Returns:
            Mean probability of an open gate [fraction], unweighted, on the gates' device; of a
            part, or of one process of several, its share in that mean.
        """
        logits, count = self.logits[part], self.total
        total = torch.zeros((), dtype=torch.float64, device=logits.device)
        for chunk in chunks(logits):
            probability = open_probability(logits[chunk], self.estimator, temperature)
            total += probability.sum()
            derivative = probability.addcmul_(probability, probability, value=-1)
            grad[chunk].add_(derivative, alpha=coefficient / count)
            del probability, derivative  # free the memory before the next chunk is made
        return total / count

    def hard_mask(self, max_density: float = 1.0) -> PackedBits:
        """Return the deterministic gates, 1[logit > 0], trimmed to the largest logits.

        Args:
            max_density: Largest share of the gates that may be open [fraction].

        Returns:
            Which gates of this process are open: never more than the positive logits, in all
            processes never more than the share.
        """
        limit = int(max_density * self.total)
        return pack_largest(self.logits, limit, chunks(self.logits), self.shards)

    def to_mask(self, bits: Sliceable, model: str, meta: dict[str, str]) -> Mask:
        """Return gates, those of all processes, as a mask over weights on the CPU; see `Mask`."""
        expanded = {}
        for each in self._whole:
            found = torch.cat([bits[part] for part in self._places[each.matrix.name]])
            found = found.view(each.shape).expand(each.matrix.shape)
            expanded[each.matrix.name] = found.bool().cpu().contiguous()
        return Mask(expanded, model, meta)
