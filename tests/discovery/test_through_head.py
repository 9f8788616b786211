from __future__ import annotations

import pytest
import torch
from torch import nn

from knowsub.discovery.losses import kl_divergence, kl_from_uniform
from knowsub.lm import head_loss as behind
from knowsub.lm.head import LMHead
from knowsub.lm.head_loss import chunked_head_loss, chunked_kl


def test_through_the_head_in_chunks_is_the_whole_sum_and_its_gradient() -> None:
    torch.manual_seed(0)
    head = LMHead(nn.Linear(6, 11, bias=False)).requires_grad_(False)
    states = torch.randn(17, 6, requires_grad=True)
    whole = kl_from_uniform(head(states)).sum()
    (expected,) = torch.autograd.grad(3 * whole, states)
    for rows in (1, 5, 17, 100):
        total = chunked_head_loss(states, head, lambda logits, _: kl_from_uniform(logits), rows)
        (gradient,) = torch.autograd.grad(3 * total, states)
        torch.testing.assert_close(total, whole.detach())
        torch.testing.assert_close(gradient, expected)


def test_each_chunk_is_told_which_positions_it_covers() -> None:
    head = LMHead(nn.Linear(2, 3))
    seen: list[tuple[int, int]] = []

    def term(logits: torch.Tensor, chunk: slice) -> torch.Tensor:
        seen.append((chunk.start, chunk.stop))
        return logits.sum(dim=-1)

    chunked_head_loss(torch.ones(5, 2, requires_grad=True), head, term, rows=2)
    assert seen == [(0, 2), (2, 4), (4, 5)]


@pytest.mark.parametrize(("scale", "cap"), [(1.0, None), (0.3, None), (2.0, 1.5)])
def test_the_divergence_by_hand_is_that_of_autograd(
    scale: float, cap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(behind, "CACHE_LOGITS", 100)
    torch.manual_seed(0)
    head = LMHead(nn.Linear(6, 40), scale, cap).requires_grad_(False).double()
    original, states = torch.randn(2, 17, 6, dtype=torch.float64)
    states.requires_grad_()
    expected = kl_divergence(head(original), head(states)).sum()
    (by_autograd,) = torch.autograd.grad(3 * expected, states)
    for rows in (5, 17, 100):
        found = chunked_kl(states, head, original, rows)
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
        (by_hand,) = torch.autograd.grad(3 * found, states)
        torch.testing.assert_close(by_hand, by_autograd, rtol=1e-5, atol=1e-6)
