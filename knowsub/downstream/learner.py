"""What a finetuning run starts from, goes by and gives, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from knowsub.downstream.encode import Encoded
from knowsub.downstream.hold import Hold
from knowsub.downstream.options import Readout
from knowsub.downstream.scoring import ChoiceHead, features, pieces

VALIDATION = "validation"
"""Name of the split that decides; all others are only watched."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a run trains."""

    steps: int
    """Optimiser steps at most."""
    batch: int
    """Questions per step."""
    head_lr: float
    """Peak learning rate of the head."""
    model_lr: float
    """Peak learning rate of everything else."""
    evaluate_every: int
    """Steps between evaluations [steps]."""
    patience: int
    """Evaluations without progress after which the run stops."""
    seed: int
    """Seed of the order of the questions."""


@dataclass(frozen=True)
class Learner:
    """A model with a head, ready to be trained."""

    model: PreTrainedModel
    """The model, or its upper part where the questions carry trunk states."""
    head: ChoiceHead
    """The multiple-choice head."""
    trained: list[nn.Parameter]
    """Parameters trained beside the head's."""
    hold: Hold
    """Weights that stay zero."""
    readout: Readout
    """What the head reads."""

    def logits(self, encoded: Encoded) -> Float[Tensor, "question choice"]:
        """Return the logit of every choice."""
        scores: Tensor = self.head(features(self.model, encoded, self.readout), encoded)
        return scores


@dataclass(frozen=True)
class Point:
    """One point of a learning curve."""

    step: int
    """Optimiser steps taken."""
    split: str
    """`validation`, or a group of the test questions."""
    accuracy: float
    """Share of questions answered rightly [fraction]."""
    loss: float
    """Mean NLL of the right choice among the choices [nats]."""


@dataclass
class Outcome:
    """What a run gave; also its progress so far."""

    step: int = 0
    """Optimiser steps taken."""
    best_step: int = -1
    """Steps taken at the best evaluation on validation."""
    accuracy: float = -1.0
    """Validation accuracy there [fraction]."""
    loss: float = float("inf")
    """Validation loss there [nats]."""
    waited: int = 0
    """Evaluations since."""
    points: list[Point] = field(default_factory=list)
    """The learning curves."""
    correct: dict[str, list[bool]] = field(default_factory=dict)
    """Split -> for each question whether it was answered rightly at the best evaluation."""

    @classmethod
    def restored(cls, values: Mapping[str, Any]) -> Outcome:
        """Return the outcome that `dataclasses.asdict` turned into plain values."""
        points = [Point(**point) for point in values["points"]]
        return cls(**{**values, "points": points})


@torch.no_grad()
def judge(
    learner: Learner, encoded: Encoded, questions: int = 256
) -> tuple[Bool[Tensor, " question"], Float[Tensor, " question"]]:
    """Return which questions a learner answers rightly, and its loss on each.

    Args:
        learner: The learner.
        encoded: The questions.
        questions: Questions per forward pass.

    Returns:
        True where the right choice scored highest, and the NLL of the right choice among the
        choices [nats].
    """
    parts = [learner.logits(encoded[index]) for index in pieces(encoded, questions)]
    logits = torch.cat(parts)
    loss = nn.functional.cross_entropy(logits, encoded.answer, reduction="none")
    return (logits.argmax(dim=1) == encoded.answer).cpu(), loss.cpu()
