"""Adam on the logits of the gates, its moments in 32 or in 8 bits.

In 8 bits a moment is a short floating-point number: 3 bits of fraction, the others an exponent,
relative to the largest of its block of 256. The first moment has a sign and 4 bits of exponent, the
second one 5, and no zero, by which a step would be divided. Rounding is stochastic: a second moment
moves by a thousandth a step, which the nearest of eight fractions would never follow.

Sources: Kingma & Ba 2015; Dettmers et al. 2022 for 8 bits by block; Li et al. 2023, "Memory
efficient optimizers with 4-bit states", for a second moment without zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int32
from torch import Tensor
from torch.optim.adam import adam

from knowsub.masks.gates import ALL, UniformNoise


@runtime_checkable
class Moments(Protocol):
    """Adam's running means of the gradient and of its square, one of each per gate."""

    def read(self, part: slice) -> tuple[Tensor, Tensor]:
        """Return both of some gates in float32."""

    def write(self, part: slice, mean: Tensor, square: Tensor, noise: UniformNoise) -> None:
        """Store what Adam made of what was read; noise rounds it."""

    def state(self, part: slice = ALL) -> dict[str, Tensor]:
        """Return the tensors that hold them, by name, or views of those of some gates."""


class FloatMoments:
    """Moments as they are: 8 bytes per gate.

    Args:
        count: Number of gates.
        device: Where they are.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self.mean = torch.zeros(count, device=device)
        self.square = torch.zeros(count, device=device)

    def read(self, part: slice) -> tuple[Tensor, Tensor]:
        """Return both of some gates, sharing memory."""
        return self.mean[part], self.square[part]

    def write(self, part: slice, mean: Tensor, square: Tensor, noise: UniformNoise) -> None:
        """Do nothing: they were changed in place."""

    def state(self, part: slice = ALL) -> dict[str, Tensor]:
        """Return the tensors that hold them, by name, or views of those of some gates."""
        return {"exp_avg": self.mean[part], "exp_avg_sq": self.square[part]}


class ByteMoments:
    """Moments in 8 bits: 2 bytes per gate and 8 per block.

    Args:
        count: Number of gates.
        parts: The parts that are read and written, without overlap.
        device: Where they are.
    """

    def __init__(self, count: int, parts: Sequence[slice], device: torch.device) -> None:
        self.mean = torch.zeros(count, dtype=torch.int8, device=device)
        self.square = torch.zeros(count, dtype=torch.uint8, device=device)
        self._blocks: dict[int, slice] = {}  # first gate of a part -> its blocks
        total = 0
        for part in sorted(parts, key=lambda part: int(part.start)):
            first, total = total, total - (part.start - part.stop) // BLOCK
            self._blocks[part.start] = slice(first, total)
        self.scales = torch.zeros(2, total, device=device)

    def read(self, part: slice) -> tuple[Tensor, Tensor]:
        """Return both of some gates, as new tensors."""
        mean_scales, square_scales = self.scales[:, self._blocks[part.start]]
        codes = self.mean[part].int()
        mean = decode(codes.abs(), mean_scales, SIGNED_TOP).mul_(codes.sign())
        return mean, decode(self.square[part].int(), square_scales, UNSIGNED_TOP)

    def write(self, part: slice, mean: Tensor, square: Tensor, noise: UniformNoise) -> None:
        """Round them stochastically."""
        mean_scales, square_scales = self.scales[:, self._blocks[part.start]]
        words = noise.words(len(mean))
        codes = encode(mean.abs(), mean_scales, SIGNED_TOP, words)
        self.mean[part] = codes.mul_(mean.sign().int())
        self.square[part] = encode(square, square_scales, UNSIGNED_TOP, words >> 12)

    def state(self, part: slice = ALL) -> dict[str, Tensor]:
        """Return the tensors that hold them, by name, or views of those of some gates."""
        start, end, _ = part.indices(len(self.mean))
        own = [blocks for first, blocks in self._blocks.items() if start <= first < end]
        scales = self.scales[:, own[0].start : own[-1].stop]
        return {"exp_avg": self.mean[part], "exp_avg_sq": self.square[part], "scales": scales}


BLOCK = 256
"""Numbers that share a scale."""
CUT = 20
"""Bits that a code lacks of float32's 23 bits of fraction."""
SIGNED_TOP, UNSIGNED_TOP = 127, 255
"""Code of the largest number of a block; each eight codes below, a number is half as large."""
ONE = 0x3F800000
"""The bits of 1 in float32: numbers above 0 are ordered as their bits are."""


def encode(
    values: Float[Tensor, " value"],
    scales: Float[Tensor, " block"],
    top: int,
    words: Int32[Tensor, " value"],
) -> Int32[Tensor, " value"]:
    """Return numbers, 0 or above, as codes, and write the scales of their blocks.

    Args:
        values: The numbers.
        scales: Where the largest number of each block is written.
        top: Code of that number.
        words: Random bits, of which the lower `CUT` are read: a number between those of two codes
            gets one of them, so that its expectation is the number.

    Returns:
        Codes from 0 to `top`.
    """
    missing = len(scales) * BLOCK - len(values)
    blocks = torch.nn.functional.pad(values, (0, missing)).view(-1, BLOCK)
    torch.amax(blocks, dim=1, out=scales)
    shares = blocks / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    bits = shares.view(torch.int32).flatten()[: len(values)]
    above = bits.sub_(ONE - (top << CUT)).add_(words & ((1 << CUT) - 1))
    return above.bitwise_right_shift_(CUT).clamp_(0, top)


def decode(
    codes: Int32[Tensor, " value"], scales: Float[Tensor, " block"], top: int
) -> Float[Tensor, " value"]:
    """Return the numbers of codes (arguments as for `encode`); that of code 0 is above 0."""
    shares = ((codes << CUT) + (ONE - (top << CUT))).view(torch.float32)
    return shares.mul_(scales[:, None].expand(-1, BLOCK).flatten()[: len(codes)])


class GateAdam:
    """Adam on the logits of the gates, all at once or part by part.

    Args:
        logits: The logits; they are changed in place.
        moments: Where its moments are.
    """

    def __init__(self, logits: Float[Tensor, " gate"], moments: Moments) -> None:
        self.logits, self.moments = logits, moments
        # torch has no fused Adam for shapes alone, and the other one counts on the CPU
        self._fused = logits.device.type != "meta"
        self.steps = torch.zeros((), device=logits.device if self._fused else "cpu")

    @torch.no_grad()
    def update(
        self, part: slice, grad: Float[Tensor, " gate"], lr: float, noise: UniformNoise
    ) -> None:
        """Change the logits of some gates by their gradient.

        Args:
            part: The gates.
            grad: Gradient by their logits.
            lr: Learning rate [log-odds per step].
            noise: Rounds the moments, if they are rounded.
        """
        mean, square = self.moments.read(part)
        adam(
            [self.logits[part]], [grad], [mean], [square], [], [self.steps.clone()],
            fused=self._fused, amsgrad=False, beta1=0.9, beta2=0.999, lr=lr, weight_decay=0.0,
            eps=1e-8, maximize=False,
        )  # fmt: skip
        self.moments.write(part, mean, square, noise)

    def advance(self) -> None:
        """Count a step, once all gates are updated."""
        self.steps += 1
