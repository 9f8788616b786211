"""Cross-entropy through an LM head, a few rows at a time.

The whole matrix of logits (positions times vocabulary) is the largest array of a small model's
training step. Here a piece of it is made, used and overwritten, its gradients taken on the way.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROWS = 64
"""Positions whose logits are held at a time: a piece fits the processor's cache [positions]."""


def head_loss(
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
