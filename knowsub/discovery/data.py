"""What mask training learns from: batches with their frozen parts computed once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.lm.encode import Batch
from knowsub.lm.trunk import last_hidden


@dataclass(frozen=True)
class Reference:
    """Sequences with the original model's final states, so that it never runs again."""

    batch: Batch
    """The sequences, with their trunk states."""
    states: Float[Tensor, "batch position hidden"]
    """Final-norm states of the original model, which its LM head reads."""


@dataclass(frozen=True)
class Ignorance:
    """What the original model answers when it is asked about other heads."""

    prior: Float[Tensor, " vocab"]
    """Log of its mean probability of each token over control prompts [nats]."""
    logits: Float[Tensor, " vocab"]
    """Its mean logit of each token over control prompts."""
    tails: Int[Tensor, " tail"]
    """First tokens of the tails of control and target facts."""
    targets: Int[Tensor, " target"]
    """First tokens of the target's tails."""


@dataclass(frozen=True)
class TrainingData:
    """All that one mask is trained on."""

    target: Batch
    """Statements of the target facts."""
    control: Reference
    """Statements of the control facts."""
    near: Reference | None
    """Statements of facts that share words with the target's; None if there are none."""
    text: Reference
    """Text blocks of the control LM."""
    ignorance: Ignorance
    """What not knowing looks like, from the control statements."""


@torch.no_grad()
def refer(upper: PreTrainedModel, batch: Batch, rows: int = 256) -> Reference:
    """Return a batch with the original model's final states.

    Args:
        upper: The upper blocks of the original model.
        batch: Sequences with their trunk states.
        rows: Sequences per forward pass.

    Returns:
        The batch and the states.
    """
    pieces = [last_hidden(upper, batch[slice(i, i + rows)]) for i in range(0, len(batch), rows)]
    return Reference(batch, torch.cat(pieces))


@torch.no_grad()
def ignorance(upper: PreTrainedModel, target: Batch, control: Reference) -> Ignorance:
    """Return what the original model answers about heads that are not the target's.

    Args:
        upper: The upper blocks of the original model; only its LM head is used.
        target: The target statements.
        control: The control statements and their final states.

    Returns:
        The prior over tails, as mean probability and as mean logit, at the first tail position.
    """
    head = upper.get_output_embeddings()
    first = first_reads(control.batch)
    states = control.states[first]
    total, probability = torch.zeros(()), torch.zeros(())
    for start in range(0, len(states), 256):
        logits = head(states[start : start + 256]).double()
        total = total + logits.sum(dim=0)
        probability = probability + logits.softmax(dim=-1).sum(dim=0)
    own = target.labels[first_reads(target)].unique()
    return Ignorance(
        prior=(probability / len(states)).log().float(),
        logits=(total / len(states)).float(),
        tails=torch.cat([control.batch.labels[first], own]).unique(),
        targets=own,
    )


def first_reads(batch: Batch) -> Tensor:
    """Return where each sequence reads first: boolean [batch position]."""
    return batch.reads & (batch.reads.cumsum(dim=1) == 1)
