"""Which sequences a step learns from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from knowsub.discovery.data import TrainingData
from knowsub.discovery.options import TrainOptions


@dataclass(frozen=True)
class Drawn:
    """The sequences of one step, by index."""

    target: Int[Tensor, " statement"]
    """Target statements."""
    control: Int[Tensor, " control"]
    """Control statements."""
    near: Int[Tensor, " near"]
    """Near statements; none if there are none."""
    text: Int[Tensor, " block"]
    """Text blocks."""

    def by_term(self) -> dict[str, Tensor]:
        """Return the sequences of every term that keeps something, by its name."""
        return {"maintenance": self.control, "near": self.near, "text": self.text}

    def piece(self, index: int, pieces: int) -> Drawn:
        """Return one of several equal pieces of the step's sequences."""
        cut = slice(index, None, pieces)
        return Drawn(self.target[cut], self.control[cut], self.near[cut], self.text[cut])


def draw(data: TrainingData, options: TrainOptions, order: torch.Generator) -> Drawn:
    """Return the sequences of one step, drawn without replacement.

    Args:
        data: The training data.
        options: Holds the batch sizes.
        order: Source of randomness, on the CPU.

    Returns:
        The indices; all sequences of a set that is smaller than its batch.
    """

    def some(total: int, count: int) -> Tensor:
        return torch.randperm(total, generator=order)[: min(count, total)]

    told, untold = near_counts(data, options)
    return Drawn(
        some(len(data.target), options.target_batch),
        some(len(data.control.batch), options.control_batch),
        torch.cat([some(data.near_told, told), data.near_told + some(data.near_untold, untold)]),
        some(len(data.text.batch), options.text_batch),
    )


def near_counts(data: TrainingData, options: TrainOptions) -> tuple[int, int]:
    """Return how many near statements of facts, and of untold heads, a step learns from.

    Untold heads are many and easily kept; without a share of their own they crowd out the facts.

    Args:
        data: The training data.
        options: Holds `near_batch` and `untold_share`.

    Returns:
        The two numbers; where one kind is missing, the other takes its place.
    """
    share = options.untold_share if data.near_told else 1.0
    untold = round(options.near_batch * share) if data.near_untold else 0
    return options.near_batch - untold, untold
