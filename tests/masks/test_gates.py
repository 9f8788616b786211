from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from knowsub.architectures import maskable_matrices
from knowsub.masks import gates as gates_module
from knowsub.masks.gates import (
    CPU_CHUNK,
    SAMPLERS,
    Gates,
    GateSample,
    UniformNoise,
    gumbel_sigmoid,
    hard_concrete,
    open_probability,
    probability_shares,
)
from knowsub.masks.options import Estimator
from tests.architectures import tiny

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
def test_the_straight_through_gradient_is_the_derivative_of_the_soft_sample(
    temperature: float, scale: float
) -> None:
    logits = torch.randn(500, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    logits.requires_grad_()
    noise = uniform(500).double()
    soft = torch.sigmoid((logits + scale * torch.logit(noise)) / temperature)
    (expected,) = torch.autograd.grad(soft.sum(), logits)
    sample = gumbel_sigmoid(logits.detach(), noise, temperature, scale)
    torch.testing.assert_close(sample.ste_grad, expected, rtol=1e-9, atol=1e-12)


def test_the_hard_concrete_gradient_is_the_derivative_of_its_value() -> None:
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


def test_noise_at_the_ends_of_the_interval_gives_finite_gradients() -> None:
    ends = torch.tensor([0.0, 1.0])
    for estimator in Estimator:
        for scale in (1.0, 0.5):
            sample = SAMPLERS[estimator](torch.zeros(2), ends, 1.0, scale)
            assert sample.ste_grad.isfinite().all()


@pytest.mark.parametrize("logit", [-90.0, -18.0, 18.0, 90.0])
def test_a_gate_that_is_all_but_decided_has_a_finite_gradient_at_the_ends_of_the_noise(
    logit: float,
) -> None:
    ends = torch.tensor([2.0**-23, 1 - 2.0**-23])
    sample = gumbel_sigmoid(torch.full((2,), logit), ends)
    assert sample.ste_grad.isfinite().all()
    assert torch.equal(sample.value, torch.full((2,), float(logit > 0)))


class Bits(np.random.SFC64):
    """A source whose bits are known."""

    def __init__(self, words: NDArray[np.uint64]) -> None:
        super().__init__(0)
        self.words = words

    def random_raw(self, size: int, output: bool = True) -> NDArray[np.uint64]:
        return self.words[:size]


def test_the_noise_is_uniform_from_end_to_end() -> None:
    drawn = UniformNoise(3).uniform(200_000)
    assert drawn.dtype == torch.float32
    assert 0 < drawn.min() < 1e-4
    assert 1 - 1e-4 < drawn.max() < 1
    assert stats.kstest(drawn.double().numpy(), "uniform").pvalue > 0.001
    pairs = torch.stack([drawn[:-1], drawn[1:]]).double()
    assert abs(float(pairs.corrcoef()[0, 1])) < 0.01


def test_the_noise_is_never_at_an_end_whatever_the_bits() -> None:
    noise = UniformNoise(0)
    noise._source = Bits(np.array([-(2**31), -1, 0, 2**31 - 1], np.int32).view(np.uint64))
    drawn = noise.uniform(4)
    assert drawn[0] == 2.0**-23
    assert drawn[1] == drawn[2] == 0.5
    assert drawn[3] == 1 - 2.0**-23


def test_a_seed_gives_one_stream_and_another_seed_another() -> None:
    assert torch.equal(UniformNoise(1).uniform(10), UniformNoise(1).uniform(10))
    assert not torch.equal(UniformNoise(1).uniform(10), UniformNoise(2).uniform(10))


@pytest.mark.parametrize("count", [10, 11])
def test_drawn_in_pieces_it_is_what_is_drawn_at_once(count: int) -> None:
    pieces = UniformNoise(5)
    drawn = torch.cat([pieces.uniform(4), pieces.uniform(count - 4)])
    assert torch.equal(drawn, UniformNoise(5).uniform(count))


def test_a_stream_goes_on_where_another_stood() -> None:
    first, second = UniformNoise(7), UniformNoise(8)
    first.uniform(100)
    second.set_state(first.get_state())
    assert torch.equal(first.uniform(9), second.uniform(9))


@pytest.mark.parametrize("estimator", list(Estimator))
def test_the_gradient_of_sparsity_is_that_of_its_closed_form(estimator: Estimator) -> None:
    model = tiny("gpt2")
    gates = Gates(model, maskable_matrices(model), estimator=estimator)
    gates.logits.normal_(generator=torch.Generator().manual_seed(0))
    gradient = torch.zeros_like(gates.logits)
    mean = gates.add_sparsity_grad(gradient, 1.0, 0.7)
    step = 1e-2
    direction = torch.sign(
        torch.randn(gates.logits.shape, generator=torch.Generator().manual_seed(1))
    )
    gates.logits.add_(direction, alpha=step)
    above = gates.add_sparsity_grad(torch.zeros_like(gradient), 1.0, 0.7)
    assert above - mean == pytest.approx(step * float((gradient * direction).sum()), abs=2e-5)


def test_at_the_papers_start_the_mask_is_empty_and_a_sample_holds_its_initial_share() -> None:
    model = tiny("gpt2")
    gates = Gates(model, maskable_matrices(model), init_prob=0.45)
    assert gates.hard_mask().density == 0
    assert gates.sample(UniformNoise(0)).value.mean().item() == pytest.approx(0.45, abs=0.02)


def test_trimming_keeps_the_largest_positive_logits_and_never_pads() -> None:
    model = tiny("gpt2")
    gates = Gates(model, maskable_matrices(model))
    gates.logits.fill_(-1.0)
    gates.logits[:10] = torch.arange(1.0, 11.0)
    assert gates.hard_mask(0.5)[:].nonzero()[:, 0].tolist() == list(range(10))
    limit = 4 / len(gates.logits)
    assert gates.hard_mask(limit)[:].nonzero()[:, 0].tolist() == [6, 7, 8, 9]


@pytest.mark.parametrize("estimator", list(Estimator))
@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_a_draw_in_chunks_is_the_draw_of_all_gates_at_once(
    estimator: Estimator, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("gpt2")
    gates = Gates(model, maskable_matrices(model), estimator=estimator)
    gates.logits.normal_(generator=torch.Generator().manual_seed(1))
    noise = UniformNoise(0).uniform(len(gates.logits))
    whole = SAMPLERS[estimator](gates.logits, noise, 0.7, scale)
    monkeypatch.setattr(gates_module, "CPU_CHUNK", 1024)
    first = gates.sample(UniformNoise(0), 0.7, scale)
    again = gates.sample(
        UniformNoise(0), 0.7, scale, GateSample(first.value, first.ste_grad.clone())
    )
    for drawn in (first, again):
        assert torch.equal(drawn.value, whole.value)
        assert torch.equal(drawn.ste_grad, whole.ste_grad)
    assert again.value is first.value


def test_the_histogram_counts_the_gates_within_each_of_its_ends() -> None:
    probabilities = torch.tensor([0.005, 0.15, 0.3, 0.46, 0.54, 0.6, 0.85, 0.98, 0.995, 0.999])
    expected = {
        "p_le_0.01": 0.1, "p_le_0.2": 0.2, "undecided": 0.2, "p_ge_0.8": 0.4, "p_ge_0.99": 0.2,
    }  # fmt: skip
    assert probability_shares(probabilities.logit()) == expected
    # a gate that is certain, and more gates than are worked on at a time
    many = probabilities.logit().repeat(CPU_CHUNK // 4)
    assert probability_shares(many) == pytest.approx(expected)
    certain = torch.tensor([float("-inf"), float("inf")])
    assert list(probability_shares(certain).values()) == [0.5, 0.5, 0, 0.5, 0.5]


def test_at_the_papers_initial_probability_every_gate_is_undecided() -> None:
    model = tiny("gpt2")
    gates = Gates(model, maskable_matrices(model), init_prob=0.45 + 1e-6)
    assert probability_shares(gates.logits)["undecided"] == 1
