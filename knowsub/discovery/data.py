"""What mask training learns from: batches with their frozen parts computed once."""

from __future__ import annotations

from dataclasses import dataclass

from knowsub.discovery.ignorance import Ignorance
from knowsub.discovery.reference import Reference
from knowsub.lm.encode import Batch


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
    def longest(self) -> int:
        """Length of the longest sequence [tokens]."""
        kept = [self.control, self.text, *([] if self.near is None else [self.near])]
        return max(batch.tokens.shape[1] for batch in (self.target, *(one.batch for one in kept)))

    @property
    def near_untold(self) -> int:
        """Number of near statements of untold heads."""
        return (0 if self.near is None else len(self.near.batch)) - self.near_told
