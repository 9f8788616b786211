from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from knowsub.discovery.ignorance import Ignorance
from knowsub.discovery.losses import (
    SUPPRESSION,
    bounded_unlikelihood,
    kl_divergence,
    kl_from_uniform,
    negative_log_likelihood,
    zscore_all,
    zscore_label,
)
from knowsub.discovery.options import Suppression

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


def ignorance(
    objects: list[int] | None = None,
    targets: list[int] | None = None,
    prior: torch.Tensor | None = None,
) -> Ignorance:
    """What a suppression term reads of it; the z-scores are given to the term directly."""
    return Ignorance(
        torch.zeros(4, dtype=torch.float64) if prior is None else prior,
        torch.tensor(objects or [0]),
        torch.tensor(targets or [0]),
        torch.zeros(1, len(targets or [0]), dtype=torch.float64),
    )


def zscores(*row: float) -> torch.Tensor:
    return torch.tensor([row], dtype=torch.float64)


@given(rows, rows)
def test_the_prior_term_is_the_divergence_of_q_from_the_prior(
    first: list[float], second: list[float]
) -> None:
    prior, q = (torch.softmax(logits(*row), dim=-1)[0] for row in (first, second))
    known = ignorance(prior=prior.log())
    term = SUPPRESSION[Suppression.PRIOR](logits(*second), torch.tensor([0]), known, zscores(0))
    assert term.item() == pytest.approx(stats.entropy(prior.numpy(), q.numpy()), abs=1e-9)


def test_unlikelihood_stops_at_the_prior() -> None:
    label = torch.tensor([1])
    half = ignorance(prior=torch.log(torch.tensor([0.5, 0.5], dtype=torch.float64)))
    above = bounded_unlikelihood(logits(0.0, math.log(3)), label, half)
    assert above.item() == pytest.approx(math.log(0.75) - math.log(0.5))
    assert bounded_unlikelihood(logits(0.0, 0.0), label, half).item() == pytest.approx(0, abs=1e-12)
    assert bounded_unlikelihood(logits(2.0, 0.0), label, half).item() == 0


OBJECTS = [0, 1, 2]
ROW = (3.0, 1.0, -1.0, 9.0)
"""Logits whose objects have mean 1 and standard deviation 2."""


def test_zscore_label_is_zero_at_the_expected_zscore_and_grows_on_both_sides() -> None:
    label, known = torch.tensor([0]), ignorance(OBJECTS, [0])
    for zscore, expected in ((1.0, 0.0), (0.75, 0.125), (1.25, 0.125), (0.0, 1.5), (2.0, 1.5)):
        term = zscore_label(logits(*ROW), label, known, zscores(zscore))
        assert term.item() == pytest.approx(expected)


def test_zscore_label_takes_the_column_of_its_label() -> None:
    known, expected = ignorance(OBJECTS, OBJECTS), (0.125, 0.0, 3.5)
    for label, value in enumerate(expected):
        term = zscore_label(logits(*ROW), torch.tensor([label]), known, zscores(0.75, 0.0, 1.0))
        assert term.item() == pytest.approx(value)


def test_a_zscore_does_not_depend_on_the_scale_of_the_logits() -> None:
    for scale in (0.1, 1.0, 7.0):
        row = scale * logits(*ROW) + 5
        term = zscore_label(row, torch.tensor([0]), ignorance(OBJECTS, [0]), zscores(1.0))
        assert term.item() == pytest.approx(0, abs=1e-12)


def test_zscore_all_adds_the_mean_over_the_other_objects_of_the_target() -> None:
    known = ignorance(OBJECTS, OBJECTS)
    at = zscores(0.75, 0.0, 1.0)  # off by .5, 0 and 4 nats
    for label, expected in ((0, 0.125 + (0 + 3.5) / 2), (1, (0.125 + 3.5) / 2), (2, 3.5 + 0.0625)):
        term = zscore_all(logits(*ROW), torch.tensor([label]), known, at)
        assert term.item() == pytest.approx(expected)


def test_zscore_all_of_a_target_with_one_object_is_zscore_label() -> None:
    label, known = torch.tensor([2]), ignorance(OBJECTS, [2])
    both = [term(logits(*ROW), label, known, zscores(0.3)) for term in (zscore_all, zscore_label)]
    assert both[0].item() == pytest.approx(both[1].item())


def test_every_suppression_term_is_in_the_table() -> None:
    assert set(SUPPRESSION) == set(Suppression)
