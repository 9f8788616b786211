import pytest

from knowsub.evaluation.specificity import Damage, at_equal_damage, damage
from tests.evaluation.setting import built_bench, fact_mask


def test_damage_is_interpolated_between_sizes() -> None:
    sizes = [Damage(target=2.0, control=0.1), Damage(target=6.0, control=0.3)]
    assert at_equal_damage(sizes, 0.05) == pytest.approx(1.0)
    assert at_equal_damage(sizes, 0.2) == pytest.approx(4.0)
    assert at_equal_damage(sizes, 9.0) == pytest.approx(6.0)
    assert at_equal_damage(sizes, -0.1) == pytest.approx(0.0)


def test_a_larger_size_that_does_less_to_the_target_does_not_hurt_a_method() -> None:
    sizes = [Damage(target=5.0, control=0.1), Damage(target=3.0, control=0.3)]
    assert at_equal_damage(sizes, 0.3) == pytest.approx(5.0)


def test_damage_is_told_apart_by_set() -> None:
    bench = built_bench("a")
    model = bench.encoder.model
    assert damage(bench, fact_mask(model, ["a0"])).control == pytest.approx(0)
    assert damage(bench, fact_mask(model, ["a0"])).target > 0.7
    assert damage(bench, fact_mask(model, ["g8"])).control > 1.5
    assert damage(bench, fact_mask(model, ["g8"])).target == pytest.approx(0)
