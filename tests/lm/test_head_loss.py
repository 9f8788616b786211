from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from knowsub.lm.head_loss import lm_head_cross_entropy


@pytest.mark.parametrize("positions", [1, 64, 2 * 64 + 5])
def test_loss_and_gradients_are_those_of_plain_cross_entropy(positions: int) -> None:
    generator = torch.Generator().manual_seed(positions)
    states = torch.randn(positions, 7, generator=generator, dtype=torch.float64)
    weight = torch.randn(19, 7, generator=generator, dtype=torch.float64)
    labels = torch.randint(19, (positions,), generator=generator)
    results = []
    for loss_of in (lm_head_cross_entropy, lambda s, w, y: functional.cross_entropy(s @ w.t(), y)):
        pair = states.clone().requires_grad_(), weight.clone().requires_grad_()
        loss = loss_of(*pair, labels)
        (3 * loss).backward()
        results.append((loss.detach(), pair[0].grad, pair[1].grad))
    torch.testing.assert_close(results[0], results[1])


def test_huge_logits_stay_finite() -> None:
    states = torch.full((2, 3), 1e4, requires_grad=True)
    loss = lm_head_cross_entropy(states, torch.randn(5, 3), torch.tensor([0, 1]))
    loss.backward()
    assert states.grad is not None
    assert bool(torch.isfinite(loss))
    assert bool(torch.isfinite(states.grad).all())
