"""What is cached of the original model, so that it never runs again.

The divergence from it needs of its prediction p no more than the mean row of the LM head:

    KL(p || q) = logsumexp(z) - h . E_p[w] + (sum of p log p - E_p[b])

where h is the state under the mask, z = W h + b its logits, w and b a token's row and bias. With
float32 products that mean and the term in brackets are kept; with bfloat16 products, in which
subtracting the mean would lose the difference in rounding, the original's states are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from knowsub.discovery.options import Precision
from knowsub.lm.batch import Batch, flat_nonzero, take_rows, to_device_of
from knowsub.lm.blocks import Allocate, in_memory, last_hidden
from knowsub.lm.head_loss import chunked_kl, chunked_kl_from_mean_row

ROWS = 256
"""Sequences that the original model reads at a time."""
CHUNK = 128
"""Positions that its LM head is computed at, at a time."""


@dataclass(frozen=True)
class TeacherStates:
    """Sequences with the original model's final states where they are read."""

    batch: Batch
    """The sequences, with their trunk states."""
    states: Float[Tensor, "batch read hidden"]
    """Final-norm states, which the LM head reads; in order of the positions, padded behind."""

    def divergence(
        self, head: nn.Linear, states: Float[Tensor, "read hidden"], rows: Int[Tensor, " row"]
    ) -> Float[Tensor, ""]:
        """Return the summed KL(p || q) over the read positions of some sequences.

        Args:
            head: The LM head.
            states: Final states of the remaining model at these positions.
            rows: The sequences.

        Returns:
            The sum [nats].
        """
        return chunked_kl(states, head, _kept(self.batch, self.states, rows, states))


@dataclass(frozen=True)
class TeacherMeanRows:
    """Sequences with what the original model expects where they are read."""

    batch: Batch
    """The sequences, with their trunk states."""
    answers: Float[Tensor, "batch read answer"]
    """Mean row of the LM head under p and, last, the sum of p log p less the mean bias [nats]."""

    def divergence(
        self, head: nn.Linear, states: Float[Tensor, "read hidden"], rows: Int[Tensor, " row"]
    ) -> Float[Tensor, ""]:
        """Return what `Recalled.divergence` does, without the original's LM head."""
        answers = _kept(self.batch, self.answers, rows, states)
        return chunked_kl_from_mean_row(states, head, answers[:, :-1], answers[:, -1])


Teacher = TeacherStates | TeacherMeanRows


def cache_teacher_states(
    upper: PreTrainedModel, batch: Batch, allocate: Allocate = in_memory
) -> TeacherStates:
    """Return a batch with the original model's final states where it is read.

    Args:
        upper: The upper blocks of the original model.
        batch: Sequences with their trunk states, at least one.
        allocate: Where the states go.

    Returns:
        The batch and the states.
    """
    return TeacherStates(batch, _remembered(upper, batch, allocate, lambda states: states))


def cache_teacher_mean_rows(
    upper: PreTrainedModel, batch: Batch, allocate: Allocate = in_memory
) -> TeacherMeanRows:
    """Return a batch with what the original model expects where it is read.

    Args:
        upper: The upper blocks of the original model; their LM head is a linear layer in float32.
        batch: Sequences with their trunk states, at least one.
        allocate: Where the expectations go.

    Returns:
        The batch and the expectations.
    """
    head = upper.get_output_embeddings()
    return TeacherMeanRows(batch, _remembered(upper, batch, allocate, partial(_expectation, head)))


def cache_teacher(
    upper: PreTrainedModel, batch: Batch, precision: Precision, allocate: Allocate = in_memory
) -> Teacher:
    """Return a batch with the least that its divergence can be computed from.

    Args:
        upper: The upper blocks of the original model.
        batch: Sequences with their trunk states, at least one.
        precision: Of the matrix products that the divergence is computed with.
        allocate: Where it goes.

    Returns:
        Expectations where model and products are in float32, states otherwise.
    """
    exact = precision is Precision.FLOAT32 and upper.dtype is torch.float32
    return (cache_teacher_mean_rows if exact else cache_teacher_states)(upper, batch, allocate)


@torch.no_grad()
def _remembered(
    upper: PreTrainedModel, batch: Batch, allocate: Allocate, found: Callable[[Tensor], Tensor]
) -> Float[Tensor, "batch read any"]:
    """Return something found of the states at all read positions, padded behind with zeros."""
    most, kept = int(batch.target_mask.sum(dim=1).max()), None
    for covered in batch.microbatch_slices(ROWS):
        part = batch[covered]
        rows = found(last_hidden(upper, part)[part.target_mask])
        if kept is None:
            kept = allocate((len(batch), most, rows.shape[-1]), rows)
        padded = rows.new_zeros(len(part), most, rows.shape[-1])
        told = to_device_of(_filled(part, most), rows)
        kept[covered] = padded.flatten(0, 1).index_copy_(0, told, rows).view(padded.shape)
    assert kept is not None, "a batch has at least one sequence"
    return kept


def _expectation(
    head: nn.Linear, states: Float[Tensor, "read hidden"]
) -> Float[Tensor, "read answer"]:
    rows = []
    for part in states.split(CHUNK):
        known = head(part).log_softmax(dim=-1)
        chance = known.exp()
        term = known.mul_(chance).sum(dim=-1, keepdim=True)
        if head.bias is not None:
            term -= chance @ head.bias[:, None]
        rows.append(torch.cat([chance @ head.weight, term], dim=1))
    return torch.cat(rows)


def _kept(
    batch: Batch,
    kept: Float[Tensor, "batch read any"],
    rows: Int[Tensor, " row"],
    states: Float[Tensor, "told hidden"],
) -> Float[Tensor, "told any"]:
    """Return what is kept of some sequences, a row per read position, beside their states."""
    told = _filled(Batch(batch.tokens[rows], batch.target_mask[rows]), kept.shape[1])
    return to_device_of(take_rows(take_rows(kept, rows).flatten(0, 1), told), states)


def _filled(batch: Batch, most: int) -> Int[Tensor, " told"]:
    """Return which rows of a tensor over sequences times their reads are not padding."""
    count = batch.target_mask.sum(dim=1, keepdim=True)
    return flat_nonzero(torch.arange(most, device=count.device) < count)
