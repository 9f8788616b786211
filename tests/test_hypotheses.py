import numpy as np
import pytest
from scipy import stats

from knowsub.hypotheses import (
    hierarchical_bootstrap,
    holm,
    interval,
    paired_p,
    paired_wilcoxon,
    permutation_p,
    ratio_interval,
    two_sample_ks,
)

# Darwin's maize, cross- minus self-fertilised heights [1/8 inch], as in Fisher (1935): W+ = 96
MAIZE = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]


def test_wilcoxon_agrees_with_the_published_maize_example() -> None:
    result = paired_wilcoxon(MAIZE, np.zeros(15))
    assert result.statistic == 96
    assert result.pvalue == pytest.approx(0.04125976562, abs=1e-9)


def test_wilcoxon_of_three_gains_is_one_in_eight() -> None:
    result = paired_wilcoxon([2.0, 4.0, 7.0], [1.0, 2.0, 3.0], "greater")
    assert result.pvalue == pytest.approx(1 / 8)
    assert result.effect == pytest.approx(2.25)  # Walsh means 1, 1.5, 2, 2.5, 3, 4


def test_wilcoxon_without_any_difference_is_one() -> None:
    assert paired_wilcoxon([1.0, 2.0], [1.0, 2.0]).pvalue == 1


@pytest.mark.parametrize("first", [[], [1.0, 2.0]])
def test_wilcoxon_refuses_unpaired_values(first: list[float]) -> None:
    with pytest.raises(ValueError, match="pairs of"):
        paired_wilcoxon(first, [])


def test_holm_agrees_with_its_published_example() -> None:
    # Wright (1992), Biometrics 48, table 1 in the notation of R's p.adjust
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert len(holm([])) == 0


def test_permutation_p_counts_the_observed_value_too() -> None:
    assert permutation_p(3.0, [1.0, 2.0, 3.0, 4.0]) == 3 / 5
    assert permutation_p(9.0, [0.0] * 99) == 1 / 100
    with pytest.raises(ValueError, match="at least one draw"):
        permutation_p(1.0, [])


def test_permutation_p_is_uniform_if_the_observed_value_is_one_more_draw() -> None:
    drawn = np.random.default_rng(0).normal(size=(2000, 20))
    p = [permutation_p(float(row[0]), row[1:].tolist()) for row in drawn]
    counts = np.bincount(np.round(np.array(p) * 20).astype(int), minlength=21)[1:]
    assert stats.chisquare(counts).pvalue > 0.01


def test_bootstrap_of_one_seed_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    result = hierarchical_bootstrap([values], resamples=4000)
    half = 1.96 * values.std() / 20
    assert result.mean == pytest.approx(values.mean())
    assert result.low == pytest.approx(values.mean() - half, abs=0.03)
    assert result.high == pytest.approx(values.mean() + half, abs=0.03)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(2)
    hits = 0
    for repetition in range(200):
        values = random.normal(size=60)
        result = hierarchical_bootstrap([values], 0.9, 400, repetition)
        hits += result.low <= 0 <= result.high
    assert 0.82 <= hits / 200 <= 0.96


def test_bootstrap_is_wider_where_seeds_differ() -> None:
    alike = hierarchical_bootstrap([[0.0, 1.0] * 10, [0.0, 1.0] * 10, [0.0, 1.0] * 10])
    apart = hierarchical_bootstrap([[-4.0, -3.0] * 10, [0.0, 1.0] * 10, [4.0, 5.0] * 10])
    assert alike.mean == apart.mean == 0.5
    assert apart.high - apart.low > 5 * (alike.high - alike.low)


def test_bootstrap_is_reproducible_and_refuses_emptiness() -> None:
    first, second = (hierarchical_bootstrap([[1.0, 2.0, 4.0]], seed=5) for _ in range(2))
    assert first == second
    with pytest.raises(ValueError, match="at least one seed"):
        hierarchical_bootstrap([[1.0], []])


def test_the_paired_test_of_right_and_wrong_is_exact_mcnemar() -> None:
    first = np.array([1.0] * 9 + [0.0] * 2 + [1.0] * 20)
    second = np.array([0.0] * 9 + [1.0] * 2 + [1.0] * 20)
    expected = stats.binomtest(2, 11, 0.5).pvalue  # 2 * (1 + 11 + 55) / 2048
    assert expected == pytest.approx(134 / 2048)
    assert paired_p(first, second, resamples=5000) == pytest.approx(expected)


def test_models_that_answer_alike_do_not_differ() -> None:
    right = np.array([1.0, 0.0, 1.0])
    assert paired_p(right, right, 100) == 1.0
    assert paired_p(np.array([1.0, 0.0]), np.array([1.0, 1.0]), 100) == 1.0
    assert paired_p(np.array([1.0, 0.0]), np.array([0.0, 1.0]), 100) == 1.0


def test_p_values_under_a_true_null_are_uniform_or_larger() -> None:
    generator = np.random.default_rng(0)
    pvalues = [
        paired_p(*generator.integers(0, 2, (2, 24)).astype(float), resamples=400)
        for _ in range(150)
    ]
    for level in (0.1, 0.3, 0.5):
        assert np.mean(np.array(pvalues) <= level) <= level + 3 * np.sqrt(level * (1 - level) / 150)


def test_the_interval_is_that_of_the_normal_law_for_many_questions() -> None:
    right = np.array([1.0] * 600 + [0.0] * 400)
    low, high = interval(right, resamples=4000)
    half = 1.96 * np.sqrt(0.6 * 0.4 / 1000)
    assert (low, high) == pytest.approx((0.6 - half, 0.6 + half), abs=0.003)


def test_questions_that_are_all_right_have_no_interval_to_speak_of() -> None:
    assert interval(np.ones(5), 100) == (1.0, 1.0)
    assert interval(np.array([0.5]), 100) == (0.5, 0.5)


def test_the_interval_of_a_ratio_resamples_both_values_of_a_fact_together() -> None:
    below = np.arange(1.0, 21.0)
    assert ratio_interval(0.3 * below, below, resamples=200) == pytest.approx((0.3, 0.3))
    above = np.random.default_rng(0).normal(2.0, 1.0, 400)
    low, high = ratio_interval(above, np.full(400, 4.0), resamples=4000)
    half = 1.96 * above.std() / 20 / 4  # of the normal interval of a mean, over 4
    assert (low, high) == pytest.approx(
        (above.mean() / 4 - half, above.mean() / 4 + half), abs=5e-3
    )


def test_ks_of_samples_apart_is_one_ordering_in_all_of_them() -> None:
    distance, p = two_sample_ks([1, 2, 3], [4, 5, 6])
    assert distance == 1.0
    assert p == pytest.approx(2 / 20)  # two of the 6! / (3! 3!) orders separate them
    assert two_sample_ks([1, 2], [1, 2]) == (0.0, 1.0)
