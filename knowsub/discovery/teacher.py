"""What the original model (the teacher) predicts, cached so that it never runs during the search.

KL(p || q) from the teacher's distribution p needs only the mean row of the LM head under p:

    KL(p || q) = logsumexp(z) - h . E_p[w] + (sum of p log p - E_p[b])

where h is the state under the mask, z = W h + b its logits, w and b a token's row and bias. With
float32 products that mean row and the term in brackets are cached. With bfloat16 products, where
subtracting the mean row would lose the difference in rounding, the teacher's states are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from knowsub.discovery.options import Precision
from knowsub.lm.batch import Batch, flat_nonzero, take_rows, to_device_of
from knowsub.lm.blocks import Allocate, in_memory, last_hidden
from knowsub.lm.head import LMHead, lm_head
from knowsub.lm.head_loss import chunked_kl, chunked_kl_from_mean_row
from knowsub.progress import with_progress

SEQUENCES = 256
"""Sequences that the teacher reads at a time."""
POSITIONS = 128
"""Positions at which the teacher's logits are held at a time."""


@dataclass(frozen=True)
class TeacherStates:
    """Sequences with the teacher's final states at their target positions."""

    batch: Batch
    """The sequences, with their lower states."""
    states: Float[Tensor, "batch target hidden"]
    """Final-norm states, which the LM head reads; in order of the positions, padded at the end."""

    def divergence(
        self, head: LMHead, states: Float[Tensor, "target hidden"], rows: Int[Tensor, " row"]
    ) -> Float[Tensor, ""]:
        """Return KL(p || q) summed over the target positions of some sequences [nats].

        `states` are the final states under the mask at these positions.
        """
        return chunked_kl(states, head, _at_targets(self.batch, self.states, rows, states))


@dataclass(frozen=True)
class TeacherMeanRows:
    """Sequences with the LM head's mean row under p at their target positions."""

    batch: Batch
    """The sequences, with their lower states."""
    mean_rows: Float[Tensor, "batch target row"]
    """Mean row and, in the last column, the sum of p log p less the mean bias [nats]."""

    def divergence(
        self, head: LMHead, states: Float[Tensor, "target hidden"], rows: Int[Tensor, " row"]
    ) -> Float[Tensor, ""]:
        """Return what `TeacherStates.divergence` does, without the teacher's logits."""
        mean_rows = _at_targets(self.batch, self.mean_rows, rows, states)
        return chunked_kl_from_mean_row(states, head, mean_rows[:, :-1], mean_rows[:, -1])


Teacher = TeacherStates | TeacherMeanRows


def cache_teacher(
    upper: PreTrainedModel, batch: Batch, precision: Precision, allocate: Allocate = in_memory
) -> Teacher:
    """Return a batch of upper blocks' inputs with the least that its divergence is computed from.

    These are mean rows if model and products (`precision`) are in float32 and the logits have no
    soft cap, states otherwise.
    """
    linear = lm_head(upper).cap is None
    exact = linear and precision is Precision.FLOAT32 and upper.dtype is torch.float32
    return (cache_teacher_mean_rows if exact else cache_teacher_states)(upper, batch, allocate)


def cache_teacher_states(
    upper: PreTrainedModel, batch: Batch, allocate: Allocate = in_memory
) -> TeacherStates:
    """Return a batch with the teacher's final states; arguments as in `cache_teacher`."""
    return TeacherStates(batch, _cache(upper, batch, allocate, lambda states: states))


def cache_teacher_mean_rows(
    upper: PreTrainedModel, batch: Batch, allocate: Allocate = in_memory
) -> TeacherMeanRows:
    """Return a batch with the teacher's mean rows; its LM head is in float32, without a cap."""
    head = lm_head(upper)
    return TeacherMeanRows(batch, _cache(upper, batch, allocate, partial(_mean_rows, head)))


@torch.no_grad()
def _cache(
    upper: PreTrainedModel, batch: Batch, allocate: Allocate, function: Callable[[Tensor], Tensor]
) -> Float[Tensor, "batch target any"]:
    """Return a function of the states at all target positions, padded at the end with zeros."""
    max_targets, cached = int(batch.target_mask.sum(dim=1).max()), None
    for covered in batch.microbatch_slices(SEQUENCES):
        part = batch[covered]
        values = function(last_hidden(upper, part)[part.target_mask])  # (target, any)
        if cached is None:
            cached = allocate((len(batch), max_targets, values.shape[-1]), values)
        padded = values.new_zeros(len(part), max_targets, values.shape[-1])
        index = to_device_of(_unpadded(part, max_targets), values)
        cached[covered] = padded.flatten(0, 1).index_copy_(0, index, values).view(padded.shape)
    assert cached is not None, "a batch has at least one sequence"
    return cached


def _mean_rows(head: LMHead, states: Float[Tensor, "target hidden"]) -> Float[Tensor, "target row"]:
    mean_rows = []
    for part in with_progress(states.split(POSITIONS), "what the original model says"):
        log_p = head(part).log_softmax(dim=-1)
        p = log_p.exp()
        offset = log_p.mul_(p).sum(dim=-1, keepdim=True)
        if head.bias is not None:
            offset -= (p @ head.bias[:, None]).mul_(head.scale)
        mean_rows.append(torch.cat([(p @ head.weight).mul_(head.scale), offset], dim=1))
    return torch.cat(mean_rows)


def _at_targets(
    batch: Batch,
    cached: Float[Tensor, "batch target any"],
    rows: Int[Tensor, " row"],
    states: Float[Tensor, "position hidden"],
) -> Float[Tensor, "position any"]:
    """Return what is cached of some sequences, one row per target position, on states' device."""
    index = _unpadded(Batch(batch.tokens[rows], batch.target_mask[rows]), cached.shape[1])
    return to_device_of(take_rows(take_rows(cached, rows).flatten(0, 1), index), states)


def _unpadded(batch: Batch, max_targets: int) -> Int[Tensor, " position"]:
    """Return which rows of a flattened (sequence, target) tensor are not padding."""
    count = batch.target_mask.sum(dim=1, keepdim=True)
    return flat_nonzero(torch.arange(max_targets, device=count.device) < count)


# Which tokens the losses compare where the vocabulary is large. With one of 262,144 the head is a
# third of a step's operations. The losses then compare the distributions over some tokens alone,
# renormalized, and what is left out is free to change. Tokens that occur in the search's sequences
# are not enough: nothing would keep the answers to *other* questions. So the tokens that the
# original model thinks likely are compared, too.

TEXT = "text"
"""Name of the batch of text blocks."""
LIKELIEST = 100
"""Tokens per target position that are compared beside those that occur: the likeliest."""


@torch.no_grad()
def likely_tokens(upper: PreTrainedModel, batch: Batch, number: int) -> Int[Tensor, " token"]:
    """Return the tokens among the `number` likeliest at any target position, on the CPU."""
    head, found = lm_head(upper), torch.zeros(0, dtype=torch.long)
    for covered in batch.microbatch_slices(SEQUENCES):
        part = batch[covered]
        for states in last_hidden(upper, part)[part.target_mask].split(POSITIONS):
            likeliest = head(states).topk(number, dim=-1).indices
            found = torch.cat([found, likeliest.flatten().cpu()]).unique()
    return found


def compared_tokens_only(
    upper: PreTrainedModel, batches: Mapping[str, Batch], likeliest: int = LIKELIEST
) -> tuple[PreTrainedModel, dict[str, Batch]]:
    """Return a model whose LM head has the tokens of some batches alone, and these renumbered.

    They are the tokens that occur, and those that the original model thinks likely after the prompt
    of a fact. Text has too many positions for that. Validation and evidence read the whole head.

    Args:
        upper: The upper blocks; it keeps its own head.
        batches: The batches by name, with lower states: their tokens are read as labels alone.
        likeliest: Tokens per target position that are kept beside those that occur.

    Returns:
        A shallow copy with a head of the tokens in ascending order, and the batches renumbered.

    Raises:
        ValueError: If a batch has no lower states.
    """
    if any(batch.lower_states is None for batch in batches.values()):
        raise ValueError("tokens are renumbered after the lower states are cached")
    occurring = [batch.tokens.flatten() for batch in batches.values()]
    asked = [batch for name, batch in batches.items() if name != TEXT]
    likely = [likely_tokens(upper, batch, likeliest) for batch in asked]
    tokens = torch.cat([*occurring, *likely]).unique()
    whole = upper.get_output_embeddings()
    rows = tokens.to(whole.weight.device)
    head = nn.Linear(whole.in_features, len(tokens), bias=whole.bias is not None, device="meta")
    head.weight = nn.Parameter(whole.weight[rows], requires_grad=False)
    if whole.bias is not None:
        head.bias = nn.Parameter(whole.bias[rows], requires_grad=False)
    twin = copy.copy(upper)
    twin._modules = dict(upper._modules)
    twin.set_output_embeddings(head)
    renumbered = {
        name: replace(batch, tokens=torch.searchsorted(tokens, batch.tokens))
        for name, batch in batches.items()
    }
    return twin, renumbered
