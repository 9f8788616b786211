import pytest

from knowsub.evaluation.metrics import (
    Damage,
    answer_distribution,
    at_equal_damage,
    cross_row,
    damage,
    divergence,
    encode_other_targets,
    row_dominance,
)
from tests.evaluation.setting import SUBJECTS, built_context, fact_mask, statements


def test_divergence_is_that_of_the_definition() -> None:
    context = built_context("a")
    facts = context.sets["neighborhood"]
    before = answer_distribution(context.upper, facts)
    with context.ablated(fact_mask(context.encoder.model, ["n0"])):
        kl, agreement = divergence(context.upper, before)
        after = answer_distribution(context.upper, facts)
    p, q = before.log_p[0], after.log_p[0]
    assert kl.tolist() == pytest.approx((p.exp() * (p - q)).sum(-1).tolist(), abs=1e-5)
    assert agreement.tolist() == [0.0, 0.0] + [1.0] * 8
    assert float(kl[0]) > 3


def test_damage_is_interpolated_between_sizes() -> None:
    sizes = [Damage(target=2.0, control=0.1), Damage(target=6.0, control=0.3)]
    assert at_equal_damage(sizes, 0.05) == pytest.approx(1.0)
    assert at_equal_damage(sizes, 0.2) == pytest.approx(4.0)
    assert at_equal_damage(sizes, 9.0) == pytest.approx(6.0)
    assert at_equal_damage(sizes, -0.1) == pytest.approx(0.0)


def test_a_larger_size_that_does_less_to_the_target_does_not_hurt_a_method() -> None:
    sizes = [Damage(target=5.0, control=0.1), Damage(target=3.0, control=0.3)]
    assert at_equal_damage(sizes, 0.3) == pytest.approx(5.0)


def test_damage_is_measured_set_by_set() -> None:
    context = built_context("a")
    model = context.encoder.model
    assert damage(context, fact_mask(model, ["a0"])).control == pytest.approx(0)
    assert damage(context, fact_mask(model, ["a0"])).target > 0.7
    assert damage(context, fact_mask(model, ["g8"])).control > 1.5
    assert damage(context, fact_mask(model, ["g8"])).target == pytest.approx(0)


def test_dominance_by_hand() -> None:
    assert row_dominance(6.0, {"b": -0.5, "c": 1.0}) == pytest.approx(8.0)


def test_no_damage_elsewhere_gives_a_finite_dominance() -> None:
    assert row_dominance(6.0, {"b": 0.0}) == pytest.approx(6000)


def test_the_cross_row_shows_whose_facts_were_damaged() -> None:
    context = built_context("a")
    others = encode_other_targets(context, {"b": statements("b"), "same": statements("a")})
    assert others.keys() == {"b"}
    b_subjects = [subject for subject in SUBJECTS if subject[0] == "b"]
    with context.ablated(fact_mask(context.encoder.model, b_subjects)):
        assert cross_row(context, others)["b"] > 3
    with context.ablated(fact_mask(context.encoder.model, ["a0"])):
        assert cross_row(context, others)["b"] == pytest.approx(0)
