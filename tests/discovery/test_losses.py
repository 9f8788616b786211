from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import pearsonr

from knowsub.discovery.losses import (
    bounded_unlikelihood,
    correlation,
    kl_divergence,
    kl_from_uniform,
    negative_log_likelihood,
    zscore_all,
    zscore_label,
)

rows = st.lists(st.floats(-8, 8), min_size=5, max_size=5)


def logits(*row: float) -> torch.Tensor:
    return torch.tensor([row], dtype=torch.float64)


def test_suppression_is_zero_at_the_uniform_distribution_only() -> None:
    assert kl_from_uniform(logits(3.0, 3.0, 3.0)).item() == pytest.approx(0, abs=1e-12)
    assert kl_from_uniform(logits(3.0, 3.0, 3.1)).item() > 0


@given(rows)
def test_suppression_is_the_divergence_of_q_from_the_uniform_distribution(row: list[float]) -> None:
    q = torch.softmax(logits(*row), dim=-1)[0].numpy()
    expected = stats.entropy([0.2] * 5, q)
    assert kl_from_uniform(logits(*row)).item() == pytest.approx(expected, abs=1e-9)


@given(rows, rows)
def test_maintenance_is_the_divergence_of_q_from_p(first: list[float], second: list[float]) -> None:
    p, q = (torch.softmax(logits(*row), dim=-1)[0].numpy() for row in (first, second))
    actual = kl_divergence(logits(*first), logits(*second)).item()
    assert actual == pytest.approx(stats.entropy(p, q), abs=1e-9)


def test_maintenance_is_zero_for_the_original() -> None:
    assert kl_divergence(logits(1, 2, 3), logits(1, 2, 3)).item() == 0


def test_expression_by_hand() -> None:
    odds = logits(math.log(1), math.log(3))
    nll = negative_log_likelihood(odds, torch.tensor([1])).item()
    assert nll == pytest.approx(-math.log(0.75))


def test_unlikelihood_stops_at_the_prior() -> None:
    label = torch.tensor([1])
    half = torch.log(torch.tensor([0.5], dtype=torch.float64))
    known = bounded_unlikelihood(logits(0.0, math.log(3)), label, half)
    assert known.item() == pytest.approx(math.log(0.75) - math.log(0.5))
    assert bounded_unlikelihood(logits(0.0, 0.0), label, half).item() == pytest.approx(0, abs=1e-12)
    assert bounded_unlikelihood(logits(2.0, 0.0), label, half).item() == 0


def test_level_is_zero_at_the_standing_and_grows_on_both_sides() -> None:
    label, tails = torch.tensor([0]), torch.tensor([0, 1, 2])
    row = torch.tensor([[3.0, 1.0, -1.0, 9.0]], dtype=torch.float64)  # mean 1, deviation 2
    for standing, expected in ((1.0, 0.0), (0.75, 0.125), (1.25, 0.125), (0.0, 1.5), (2.0, 1.5)):
        at = torch.tensor([standing], dtype=torch.float64)
        assert zscore_label(row, label, tails, at).item() == pytest.approx(expected)


def test_level_is_the_same_question_at_every_scale() -> None:
    label, tails = torch.tensor([0]), torch.tensor([0, 1, 2])
    at = torch.tensor([1.0], dtype=torch.float64)
    for scale in (0.1, 1.0, 7.0):
        row = scale * torch.tensor([[3.0, 1.0, -1.0, 9.0]], dtype=torch.float64) + 5
        assert zscore_label(row, label, tails, at).item() == pytest.approx(0, abs=1e-12)


def test_profile_asks_level_of_every_tail_of_the_target_and_means_over_the_others() -> None:
    tails, targets = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2])
    row = torch.tensor([[3.0, 1.0, -1.0, 9.0]], dtype=torch.float64)  # mean 1, deviation 2
    at = torch.tensor([[0.75, 0.0, 1.0]], dtype=torch.float64)  # off by .5, 0 and 4 nats
    for label, expected in ((0, 0.125 + (0 + 3.5) / 2), (1, (0.125 + 3.5) / 2), (2, 3.5 + 0.0625)):
        found = zscore_all(row, torch.tensor([label]), tails, targets, at)
        assert found.item() == pytest.approx(expected)


def test_profile_of_a_target_with_one_tail_is_level() -> None:
    row = torch.tensor([[3.0, 1.0, -1.0, 9.0]], dtype=torch.float64)
    label, tails = torch.tensor([2]), torch.tensor([0, 1, 2])
    at = torch.tensor([0.3], dtype=torch.float64)
    found = zscore_all(row, label, tails, label, at[:, None])
    assert found.item() == pytest.approx(zscore_label(row, label, tails, at).item())


def test_correlation_is_the_squared_pearson_of_logit_and_ownership() -> None:
    generator = torch.Generator().manual_seed(0)
    told = torch.randn(9, 2, generator=generator, dtype=torch.float64)
    labels, targets = torch.tensor([4, 7, 4, 7, 7, 4, 4, 7, 7]), torch.tensor([4, 7])
    expected = [
        pearsonr(told[:, i].numpy(), (labels == tail).double().numpy()).statistic ** 2
        for i, tail in enumerate(targets)
    ]
    found = correlation(told, labels, targets)
    assert found.tolist() == pytest.approx([sum(expected) / 2] * 9)
    assert correlation(1000 * told + 5, labels, targets).tolist() == pytest.approx(found.tolist())


def test_logits_that_are_the_same_for_every_head_correlate_with_nothing() -> None:
    told = torch.tensor([[1.0, 2.0]]).expand(4, 2)
    labels, targets = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1])
    assert correlation(told, labels, targets).tolist() == [0.0] * 4
