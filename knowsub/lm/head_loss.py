"""Losses behind the LM head, a few positions at a time, without holding all logits.

The logits (positions times vocabulary) are the largest array of a small model's training step. Here
those of a chunk of positions are made, used and freed, and their gradients taken on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from knowsub.lm.head import LMHead

CACHE_LOGITS = 1 << 18  # logits that fit a processor's cache

ChunkLoss = Callable[[Tensor, slice, Tensor], Tensor]
"""States of a chunk, the slice it covers, running total -> gradient by the states; the summed loss
[nats] is added to the total in place."""


class _ChunkedSum(torch.autograd.Function):
    """A loss summed over positions, `rows` at a time, its gradients taken in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        chunk_loss: ChunkLoss,
        rows: int,
        weight: Tensor | None = None,
        weight_grad: list[Tensor] | None = None,
    ) -> Tensor:
        """`chunk_loss` fills `weight_grad`, one tensor in a list to hide it from autograd."""
        states_grad = torch.empty_like(states)
        total = states.new_zeros((), dtype=torch.promote_types(states.dtype, torch.float32))
        for start in range(0, len(states), rows):
            chunk = slice(start, min(start + rows, len(states)))
            states_grad[chunk] = chunk_loss(states[chunk], chunk, total)
        ctx.save_for_backward(states_grad, *(weight_grad or []))
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        states_grad, *rest = (grad * outputs[0].to(grad.dtype) for grad in ctx.saved_tensors)
        return states_grad, None, None, *(rest or [None]), None


_chunked_sum: Callable[..., Tensor] = _ChunkedSum.apply
"""States, chunk loss, rows per chunk and the last arguments of `forward` -> summed loss [nats]."""


def lm_head_cross_entropy(
    states: Float[Tensor, "target hidden"],
    weight: Float[Tensor, "vocab hidden"],
    labels: Int[Tensor, " target"],
    rows: int = 64,
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of the labels under p = softmax(states @ weight.T) [nats].

    The gradient by the logits of a position is (p - onehot(label)) / positions.

    Args:
        states: Final states.
        weight: Weights of the LM head, which must have no bias, scale or cap, like GPT-2's.
        labels: Token that each state predicts.
        rows: Positions per chunk, so that its logits fit a processor's cache.

    Returns:
        The loss; its gradients flow to states and weight.
    """
    weight_grad = torch.zeros_like(weight)
    buffer = states.new_empty(min(len(states), rows), len(weight))  # (rows, vocab)
    minus_one = states.new_full((rows, 1), -1.0)

    def chunk_loss(part: Tensor, chunk: slice, total: Tensor) -> Tensor:
        label = labels[chunk, None]
        logits = torch.mm(part, weight.t(), out=buffer[: len(part)])
        logits -= logits.amax(dim=1, keepdim=True)
        total -= logits.gather(1, label).sum()
        sums = logits.exp_().sum(dim=1, keepdim=True)
        total += sums.log().sum()
        logits /= sums  # p
        logits.scatter_add_(1, label, minus_one[: len(part)])  # p - onehot(label)
        weight_grad.addmm_(logits.t(), part)
        return torch.mm(logits, weight)

    return _chunked_sum(states, chunk_loss, rows, weight, [weight_grad]) / len(states)


def chunked_head_loss(
    states: Float[Tensor, "target hidden"],
    head: LMHead,
    term: Callable[[Tensor, slice], Tensor],
    rows: int = 128,
) -> Float[Tensor, ""]:
    """Return the sum of a term over positions.

    Args:
        states: Final states at the target positions.
        head: The LM head; its parameters get no gradient.
        term: Logits of a chunk and the slice it covers -> losses per position [nats].
        rows: Positions per chunk.

    Returns:
        Summed losses [nats], differentiable by the states.
    """

    def chunk_loss(part: Tensor, chunk: slice, total: Tensor) -> Tensor:
        part = part.detach().requires_grad_()
        with torch.enable_grad():
            loss = term(head(part).float(), chunk).sum()
        total += loss.detach()
        return torch.autograd.grad(loss, part)[0]

    return _chunked_sum(states, chunk_loss, rows)


def chunked_kl(
    states: Float[Tensor, "target hidden"],
    head: LMHead,
    original: Float[Tensor, "target hidden"],
    rows: int = 128,
) -> Float[Tensor, ""]:
    """Return KL(p || q) summed over positions [nats], `rows` positions at a time.

    `states` are the final states of q, `original` those of p. The gradient by `states`, (q - p) W,
    is written by hand; the head gets none.
    """

    def chunk_loss(part: Tensor, chunk: slice, total: Tensor) -> Tensor:
        logits: Tensor = head(part)
        reference: Tensor = head(original[chunk])
        divergence = part.new_zeros((), dtype=torch.float32)
        for q, p in zip(_cached_rows(logits), _cached_rows(reference), strict=True):
            log_p, log_q = p.float().log_softmax(dim=-1), q.float().log_softmax(dim=-1)
            probability = log_p.exp()
            # The logits become the gradient by what the head's matrix gives.
            q.copy_(head.chain_(log_q.exp().sub_(probability), q))
            # In place, summed at once, unlike `discovery.losses.kl_divergence`: faster, and
            # summing per position first would change the last bits.
            divergence += log_p.sub_(log_q).mul_(probability).sum()
        total += divergence
        return logits @ head.weight

    return _chunked_sum(states, chunk_loss, rows)


def chunked_kl_from_mean_row(
    states: Float[Tensor, "target hidden"],
    head: LMHead,
    mean: Float[Tensor, "target hidden"],
    offset: Float[Tensor, " target"],
    rows: int = 128,
) -> Float[Tensor, ""]:
    """Return `chunked_kl` without the logits of p, from what the head gives on average under p.

    With h a state of q: KL(p || q) = logsumexp(logits of q) - h . mean + offset. Logits with a soft
    cap are not linear in h: such a head needs `chunked_kl`.

    Args:
        states: Final states of q at the target positions.
        head: The LM head, without a cap; its parameters get no gradient.
        mean: Mean row of the head under p, times its scale.
        offset: Sum of p log p, less the mean bias under p times the scale [nats].
        rows: Positions per chunk.

    Returns:
        Summed divergence [nats].
    """

    def chunk_loss(part: Tensor, chunk: slice, total: Tensor) -> Tensor:
        q: Tensor = head(part)
        total += (_softmax_(q) - torch.linalg.vecdot(part, mean[chunk]) + offset[chunk]).sum()
        return (q @ head.weight).mul_(head.scale).sub_(mean[chunk])

    return _chunked_sum(states, chunk_loss, rows)


def _softmax_(logits: Float[Tensor, "target vocab"]) -> Float[Tensor, " target"]:
    """Turn logits into probabilities in place; return their logsumexp."""
    logsumexp = []
    for part in _cached_rows(logits):
        highest = part.amax(dim=-1, keepdim=True)
        sums = part.sub_(highest).exp_().sum(dim=-1, keepdim=True)
        part.div_(sums)
        logsumexp.append(highest + sums.log())
    return torch.cat(logsumexp)[:, 0]


def _cached_rows(logits: Float[Tensor, "target vocab"]) -> tuple[Tensor, ...]:
    """Return views of a few rows each, small enough for a processor's cache; on a GPU all rows."""
    if logits.device.type != "cpu":
        return (logits,)
    return torch.split(logits, max(1, CACHE_LOGITS // logits.shape[-1]))
