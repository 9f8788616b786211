import numpy as np
import pytest
from scipy import stats

from knowsub.hypotheses import interval, paired_p


def test_the_paired_test_of_right_and_wrong_is_exact_mcnemar() -> None:
    first = np.array([1.0] * 9 + [0.0] * 2 + [1.0] * 20)
    second = np.array([0.0] * 9 + [1.0] * 2 + [1.0] * 20)
    expected = stats.binomtest(2, 11, 0.5).pvalue  # 2 * (1 + 11 + 55) / 2048
    assert expected == pytest.approx(134 / 2048)
    assert paired_p(first, second, resamples=5000) == pytest.approx(expected)


def test_models_that_answer_alike_are_not_told_apart() -> None:
    right = np.array([1.0, 0.0, 1.0])
    assert paired_p(right, right, 100) == 1.0
    assert paired_p(np.array([1.0, 0.0]), np.array([1.0, 1.0]), 100) == 1.0
    assert paired_p(np.array([1.0, 0.0]), np.array([0.0, 1.0]), 100) == 1.0


def test_p_values_under_a_true_null_are_uniform_or_larger() -> None:
    generator = np.random.default_rng(0)
    found = [
        paired_p(*generator.integers(0, 2, (2, 24)).astype(float), resamples=400)
        for _ in range(150)
    ]
    for level in (0.1, 0.3, 0.5):
        assert np.mean(np.array(found) <= level) <= level + 3 * np.sqrt(level * (1 - level) / 150)


def test_the_interval_is_that_of_the_normal_law_for_many_questions() -> None:
    right = np.array([1.0] * 600 + [0.0] * 400)
    low, high = interval(right, resamples=4000)
    half = 1.96 * np.sqrt(0.6 * 0.4 / 1000)
    assert (low, high) == pytest.approx((0.6 - half, 0.6 + half), abs=0.003)


def test_questions_that_are_all_right_have_no_interval_to_speak_of() -> None:
    assert interval(np.ones(5), 100) == (1.0, 1.0)
    assert interval(np.array([0.5]), 100) == (0.5, 0.5)
