"""Losses behind the LM head, a few positions at a time, without holding the logits.

The whole matrix of logits (positions times vocabulary) is the largest array of a small model's
training step. Here a piece of it is made, used and overwritten, its gradients taken on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

ROWS = 64
"""Positions whose logits are held at a time: a piece fits the processor's cache [positions]."""


def lm_head_cross_entropy(
    states: Float[Tensor, "read hidden"],
    weight: Float[Tensor, "vocab hidden"],
    labels: Int[Tensor, " read"],
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of the labels under softmax(states @ weight.T) [nats].

    Args:
        states: What the head reads.
        weight: The head's weights; a head with a bias is not served.
        labels: Token that each state predicts.

    Returns:
        The loss; its gradients flow to states and weight, once.
    """
    loss: Tensor = _HeadLoss.apply(states, weight, labels)  # type: ignore[no-untyped-call]
    return loss


class _HeadLoss(torch.autograd.Function):
    """With p = softmax(z): d loss / d z = (p - onehot(label)) / positions."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        to_states, to_weight = torch.empty_like(states), torch.zeros_like(weight)
        buffer = states.new_empty(min(len(states), ROWS), len(weight))
        minus = states.new_full((ROWS, 1), -1.0)
        total = states.new_zeros(())
        for start in range(0, len(states), ROWS):
            rows, label = states[start : start + ROWS], labels[start : start + ROWS, None]
            logits = torch.mm(rows, weight.t(), out=buffer[: len(rows)])
            logits -= logits.amax(dim=1, keepdim=True)
            total -= logits.gather(1, label).sum()
            sums = logits.exp_().sum(dim=1, keepdim=True)
            total += sums.log().sum()
            logits /= sums
            logits.scatter_add_(1, label, minus[: len(rows)])
            torch.mm(logits, weight, out=to_states[start : start + ROWS])
            to_weight.addmm_(logits.t(), rows)
        ctx.save_for_backward(to_states, to_weight)
        return total / len(states)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor, None]:
        to_states, to_weight = ctx.saved_tensors
        scale = outer[0] / len(to_states)
        return to_states * scale, to_weight * scale, None


CACHED = 1 << 18
"""Logits that a loss works on at a time, so that they stay in the processor's cache."""
Term = Callable[[Tensor, slice], Tensor]
ValueAndGrad = Callable[[Tensor, slice], tuple[Tensor, Tensor]]
"""States of a chunk and the slice it covers -> summed loss [nats] and its gradient by them."""


def chunked_head_loss(
    states: Float[Tensor, "read hidden"], head: nn.Module, term: Term, rows: int = 128
) -> Float[Tensor, ""]:
    """Return the sum of a term over positions, never holding more than `rows` x vocabulary.

    The gradient by the states is computed chunk by chunk in the forward pass already.

    Args:
        states: Final states at the read positions.
        head: The LM head; its parameters get no gradient.
        term: Logits of a chunk and the slice it covers -> losses per position [nats].
        rows: Positions per chunk.

    Returns:
        Summed losses [nats].
    """

    def slope(told: Tensor, chunk: slice) -> tuple[Tensor, Tensor]:
        part = told.detach().requires_grad_()
        with torch.enable_grad():
            loss = term(head(part).float(), chunk).sum()
        return loss.detach(), torch.autograd.grad(loss, part)[0]

    return _summed(states, slope, rows)


def chunked_kl(
    states: Float[Tensor, "read hidden"],
    head: nn.Linear,
    original: Float[Tensor, "read hidden"],
    rows: int = 128,
) -> Float[Tensor, ""]:
    """Return the summed KL(p || q) over positions; its gradient, (q - p) W, is written by hand.

    Args:
        states: Final states of q at the read positions.
        head: The LM head; its parameters get no gradient.
        original: Final states of p.
        rows: Positions per chunk.

    Returns:
        Summed divergence [nats].
    """

    def slope(told: Tensor, chunk: slice) -> tuple[Tensor, Tensor]:
        logits, expected = head(told), head(original[chunk])
        total = told.new_zeros((), dtype=torch.float32)
        for some, known in zip(_cached(logits), _cached(expected), strict=True):
            log_p, log_q = known.float().log_softmax(dim=-1), some.float().log_softmax(dim=-1)
            p = log_p.exp()
            some.copy_(log_q.exp().sub_(p))
            total += log_p.sub_(log_q).mul_(p).sum()
        return total, logits @ head.weight

    return _summed(states, slope, rows)


def chunked_kl_from_mean_row(
    states: Float[Tensor, "read hidden"],
    head: nn.Linear,
    mean: Float[Tensor, "read hidden"],
    offset: Float[Tensor, " read"],
    rows: int = 128,
) -> Float[Tensor, ""]:
    """Return the summed KL(p || q) over positions from what p expects, and no logits of p.

    Args:
        states: Final states of q at the read positions.
        head: The LM head; its parameters get no gradient.
        mean: Mean row of the head under p.
        offset: Sum of p log p, less the mean bias under p [nats].
        rows: Positions per chunk.

    Returns:
        Summed divergence [nats].
    """

    def slope(told: Tensor, chunk: slice) -> tuple[Tensor, Tensor]:
        chance = head(told)
        apart = _softmax_(chance) - torch.linalg.vecdot(told, mean[chunk]) + offset[chunk]
        return apart.sum(), (chance @ head.weight).sub_(mean[chunk])

    return _summed(states, slope, rows)


def _summed(states: Tensor, slope: ValueAndGrad, rows: int) -> Tensor:
    result: Tensor = _Summed.apply(states, slope, rows)  # type: ignore[no-untyped-call]
    return result


class _Summed(torch.autograd.Function):
    """A sum over positions whose gradient is taken on the way, `rows` positions at a time."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, slope: ValueAndGrad, rows: int) -> Tensor:
        gradient = torch.empty_like(states)
        total = states.new_zeros((), dtype=torch.float32)
        for start in range(0, len(states), rows):
            chunk = slice(start, min(start + rows, len(states)))
            loss, gradient[chunk] = slope(states[chunk], chunk)
            total += loss
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0].to(gradient.dtype), None, None


def _softmax_(logits: Float[Tensor, "read vocab"]) -> Float[Tensor, " read"]:
    """Turn logits into probabilities in place; return their logsumexp."""
    total = []
    for part in _cached(logits):
        most = part.amax(dim=-1, keepdim=True)
        scale = part.sub_(most).exp_().sum(dim=-1, keepdim=True)
        part.div_(scale)
        total.append(most + scale.log())
    return torch.cat(total)[:, 0]


def _cached(logits: Float[Tensor, "read vocab"]) -> tuple[Tensor, ...]:
    """Return views of a few rows each, small enough for a processor's cache; on a GPU all rows."""
    if logits.device.type != "cpu":
        return (logits,)
    return torch.split(logits, max(1, CACHED // logits.shape[-1]))
