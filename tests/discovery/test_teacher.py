from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from knowsub.discovery.options import Precision
from knowsub.discovery.teacher import (
    Teacher,
    cache_teacher,
    cache_teacher_mean_rows,
    cache_teacher_states,
)
from knowsub.lm import head_loss
from knowsub.lm.batch import Batch
from knowsub.lm.blocks import cache_lower_states, last_hidden, upper_blocks
from knowsub.lm.head import LMHead, lm_head
from tests.architectures import CONFIGS, tiny
from tests.discovery.setting import statements, text

ROWS = torch.tensor([5, 0, 3, 3])


def cases() -> list[Batch]:
    return [
        statements(9, 9, 2),
        statements(9, 9, 2, n_targets=3),
        statements(9, 9, 2).unshifted(),
        text(6, 8, 3),
    ]


def setting(kind: str, batch: Batch) -> tuple[PreTrainedModel, Batch]:
    model = tiny(kind)
    return upper_blocks(model, 2), cache_lower_states(model, 2, batch)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize("index", range(4))
def test_cached_states_and_mean_rows_give_the_divergence_and_gradient_of_the_logits(
    kind: str, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_loss, "CACHE_LOGITS", 100)
    upper, batch = setting(kind, cases()[index])
    head = lm_head(upper)
    some = batch[ROWS]
    original = last_hidden(upper, some)[some.target_mask].detach()
    noise = torch.randn(original.shape, generator=torch.Generator().manual_seed(0))
    states = (original + 0.3 * noise).requires_grad_()
    log_p, log_q = head(original).log_softmax(-1), head(states).log_softmax(-1)
    expected = (log_p.exp() * (log_p - log_q)).sum()
    (expected_grad,) = torch.autograd.grad(3 * expected, states)
    teachers: list[Teacher] = [cache_teacher_states(upper, batch)]
    if head.cap is None:  # else its logits are not linear in the states
        teachers.append(cache_teacher_mean_rows(upper, batch))
    assert type(cache_teacher(upper, batch, Precision.FLOAT32)) is type(teachers[-1])
    for teacher in teachers:
        found = teacher.divergence(head, states, ROWS)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        (gradient,) = torch.autograd.grad(3 * found, states)
        torch.testing.assert_close(gradient, expected_grad, rtol=1e-4, atol=1e-5)


def test_mean_rows_include_the_bias_of_the_head() -> None:
    upper, batch = setting("gpt2", statements(9, 9, 2))
    head = nn.Linear(16, 30).requires_grad_(False)
    head.weight = nn.Parameter(torch.randn(30, upper.config.hidden_size), requires_grad=False)
    upper.set_output_embeddings(head)
    states = torch.randn(4, upper.config.hidden_size, generator=torch.Generator().manual_seed(1))
    left, right = (
        teacher.divergence(LMHead(head), states, ROWS)
        for teacher in (cache_teacher_states(upper, batch), cache_teacher_mean_rows(upper, batch))
    )
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


def test_the_divergence_of_the_original_model_and_its_gradient_are_zero() -> None:
    upper, batch = setting("gpt2", text(6, 8, 3))
    states = last_hidden(upper, batch)[batch.target_mask].detach().requires_grad_()
    total = cache_teacher_mean_rows(upper, batch).divergence(
        lm_head(upper), states, torch.arange(6)
    )
    (gradient,) = torch.autograd.grad(total, states)
    assert abs(total.item()) < 1e-5 * len(states)
    assert gradient.abs().max().item() < 1e-6
