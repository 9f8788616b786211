from __future__ import annotations

import math

import pytest
import torch

from knowsub.masks.gates import SAMPLERS, gumbel_sigmoid, hard_concrete, open_probability
from knowsub.masks.options import Estimator

MANY = 200_000


def uniform(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("logit", [-2.0, -0.2, 0.0, 1.5])
def test_the_mean_of_a_gumbel_sigmoid_gate_is_the_sigmoid_of_its_logit(logit: float) -> None:
    value = gumbel_sigmoid(torch.full((MANY,), logit), uniform(MANY)).value
    chance = 1 / (1 + math.exp(-logit))
    assert value.mean().item() == pytest.approx(chance, abs=4 * math.sqrt(0.25 / MANY))


@pytest.mark.parametrize("logit", [-2.0, 0.0, 1.5])
def test_a_hard_concrete_gate_is_open_as_often_as_its_closed_form_says(logit: float) -> None:
    logits = torch.full((MANY,), logit)
    opened = (hard_concrete(logits, uniform(MANY), 2 / 3).value > 0).float().mean().item()
    chance = open_probability(logits[:1], Estimator.HARD_CONCRETE, 2 / 3).item()
    by_hand = 1 / (1 + math.exp(-(logit - 2 / 3 * math.log(0.1 / 1.1))))
    assert chance == pytest.approx(by_hand, rel=1e-6)
    assert opened == pytest.approx(chance, abs=4 * math.sqrt(0.25 / MANY))


def test_the_short_way_at_temperature_one_equals_the_definition() -> None:
    logits = torch.randn(1000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise = uniform(1000).double()
    soft = torch.sigmoid(logits + torch.log(noise / (1 - noise)))
    sample = gumbel_sigmoid(logits, noise)
    assert torch.equal(sample.value, (soft > 0.5).double())
    torch.testing.assert_close(sample.ste_grad, soft * (1 - soft))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_the_straight_through_slope_is_the_derivative_of_the_soft_sample(
    temperature: float, scale: float
) -> None:
    logits = torch.randn(500, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    logits.requires_grad_()
    noise = uniform(500).double()
    soft = torch.sigmoid((logits + scale * torch.logit(noise)) / temperature)
    (expected,) = torch.autograd.grad(soft.sum(), logits)
    sample = gumbel_sigmoid(logits.detach(), noise, temperature, scale)
    torch.testing.assert_close(sample.ste_grad, expected, rtol=1e-9, atol=1e-12)


def test_the_hard_concrete_slope_is_the_derivative_of_its_value() -> None:
    logits = torch.randn(500, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    logits.requires_grad_()
    noise = uniform(500).double()
    soft = torch.sigmoid((logits + torch.logit(noise)) / 0.5)
    value = (soft * 1.2 - 0.1).clamp(0, 1)
    (expected,) = torch.autograd.grad(value.sum(), logits)
    sample = hard_concrete(logits.detach(), noise, 0.5)
    torch.testing.assert_close(sample.value, value.detach())
    torch.testing.assert_close(sample.ste_grad, expected)


@pytest.mark.parametrize("estimator", list(Estimator))
def test_without_noise_a_gate_is_open_if_and_only_if_its_logit_is_positive(
    estimator: Estimator,
) -> None:
    logits = torch.tensor([-8.0, -4.0, 4.0, 8.0])
    value = SAMPLERS[estimator](logits, uniform(4), 0.5, 0.0).value
    assert torch.equal(value, torch.tensor([0.0, 0.0, 1.0, 1.0]))


def test_noise_at_the_ends_of_the_interval_gives_finite_slopes() -> None:
    ends = torch.tensor([0.0, 1.0])
    for estimator in Estimator:
        for scale in (1.0, 0.5):
            sample = SAMPLERS[estimator](torch.zeros(2), ends, 1.0, scale)
            assert sample.ste_grad.isfinite().all()


@pytest.mark.parametrize("logit", [-90.0, -18.0, 18.0, 90.0])
def test_a_gate_that_is_all_but_decided_has_a_finite_slope_at_the_ends_of_the_noise(
    logit: float,
) -> None:
    ends = torch.tensor([2.0**-23, 1 - 2.0**-23])
    sample = gumbel_sigmoid(torch.full((2,), logit), ends)
    assert sample.ste_grad.isfinite().all()
    assert torch.equal(sample.value, torch.full((2,), float(logit > 0)))
