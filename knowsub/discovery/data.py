"""What mask training learns from: batches with their frozen parts computed once."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.discovery.ignorance import Ignorance
from knowsub.lm.encode import Batch
from knowsub.lm.trunk import Allocate, all_hidden, in_memory


@dataclass(frozen=True)
class Reference:
    """Sequences with the original model's final states, so that it never runs again."""

    batch: Batch
    """The sequences, with their trunk states."""
    states: Float[Tensor, "batch position hidden"]
    """Final-norm states of the original model, which its LM head reads."""


@dataclass(frozen=True)
class TrainingData:
    """All that one mask is trained on."""

    target: Batch
    """Statements of the target facts."""
    control: Reference
    """Statements of the control facts."""
    near: Reference | None
    """Statements that share words with the target's; None if there are none."""
    near_told: int
    """How many of them, which come first, state facts; the others are of untold heads."""
    text: Reference
    """Text blocks of the control LM."""
    ignorance: Ignorance
    """What not knowing looks like, from the control statements."""

    @property
    def near_untold(self) -> int:
        """Number of near statements of untold heads."""
        return (0 if self.near is None else len(self.near.batch)) - self.near_told


def refer(upper: PreTrainedModel, batch: Batch, allocate: Allocate = in_memory) -> Reference:
    """Return a batch with the original model's final states.

    Args:
        upper: The upper blocks of the original model.
        batch: Sequences with their trunk states.
        allocate: Where the states go.

    Returns:
        The batch and the states.
    """
    return Reference(batch, all_hidden(upper, batch, allocate=allocate))
