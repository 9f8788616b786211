"""A step on pieces of the gates: each piece is changed as soon as its gradient has arrived.

Neither the sample of the gates nor their gradient ever exists as a whole. The sample is drawn
twice, for the remaining weights and for the gradient; the sparsity term and Adam follow piece by
piece.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from knowsub.discovery.adam import ByteMoments, FloatMoments, GateAdam, Moments
from knowsub.discovery.options import GateMemory
from knowsub.masks.gates import Gates, GateSample, UniformNoise
from knowsub.masks.weights import FusedSlice, MaskedWeights


def make_moments(memory: GateMemory, gates: Gates, weights: MaskedWeights) -> Moments:
    """Return Adam's moments of some gates, in 8 bits if that is asked for."""
    count, device = len(gates.logits), gates.logits.device
    if memory is GateMemory.EIGHT_BIT:
        return ByteMoments(count, [each.slices[0].part for each in weights.pieces()], device)
    return FloatMoments(count, device)


@dataclass(frozen=True)
class RedrawnSample:
    """One sample of every gate, which takes no memory.

    Every part has a stream of noise of its own, named by its first gate among those of all
    processes; the same parts must be read each time.
    """

    gates: Gates
    """The gates; a part is the same as long as its logits are."""
    noise: UniformNoise
    """Noise of the step."""
    temperature: float
    """Temperature of the relaxation, above 0."""
    scale: float
    """Factor of the noise, 0 to 1."""

    def __getitem__(self, part: slice) -> Float[Tensor, " gate"]:
        """Return the values of some gates, drawn now."""
        return self.draw(part)[0].value

    def draw(self, part: slice) -> tuple[GateSample, UniformNoise]:
        """Return the sample of some gates, and their noise where the sample has left it."""
        noise = self.noise.at(self.gates.first + part.start)
        return self.gates.sample(noise, self.temperature, self.scale, part=part), noise


class PieceStep:
    """One step; it is called with every piece's gradient, see `MaskedWeights.gate_grads`.

    Args:
        gates: The gates.
        adam: The optimizer of their logits.
        sample: The sample that the remaining weights were written with.
        sparsity_weight: Coefficient of the sparsity term.
        lr: Learning rate [log-odds per step].
    """

    def __init__(
        self,
        gates: Gates,
        adam: GateAdam,
        sample: RedrawnSample,
        sparsity_weight: float,
        lr: float,
    ) -> None:
        self.gates, self.adam, self.sample = gates, adam, sample
        self.sparsity_weight, self.lr = sparsity_weight, lr
        self.n_open = torch.zeros((), dtype=torch.long, device=gates.logits.device)
        self.expected_density = torch.zeros((), dtype=torch.float64, device=gates.logits.device)

    def __call__(self, piece: FusedSlice, grad: Tensor, original: Tensor) -> None:
        """Take the gradient by a piece's remaining weights; change its logits."""
        (own,) = piece.slices
        drawn, noise = self.sample.draw(own.part)
        self.n_open += drawn.value.count_nonzero()
        logit_grad = drawn.ste_grad
        logit_grad.view(own.shape).mul_(grad).mul_(original).neg_()  # weight x (1 - gate)
        temperature = self.sample.temperature
        self.expected_density += self.gates.add_sparsity_grad(
            logit_grad, self.sparsity_weight, temperature, own.part
        )
        self.adam.update(own.part, logit_grad, self.lr, noise)

    def density(self, scale: float) -> Tensor:
        """Return the share of open gates [fraction] in all processes, which must all call it.

        It is counted in the sample where its noise has a scale below 1, else as expected.
        """
        own = self.n_open.double() / self.gates.total if scale < 1 else self.expected_density
        return self.gates.shards.total(own)
