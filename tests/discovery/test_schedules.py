from __future__ import annotations

from dataclasses import replace

import pytest

from knowsub.discovery.trainer import learning_rate, ramp, sparsity_coefficient
from tests.discovery.setting import options


def test_a_ramp_holds_then_moves_linearly_and_arrives() -> None:
    values = [ramp(step, 11, 2.0, 3.0, 0.5) for step in range(11)]
    assert values[:6] == [2.0] * 6
    assert values[10] == 3.0
    assert values[8] == pytest.approx(2.0 + 2.5 / 4.5)


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("begin", [0.0, 0.5, 1.0])
def test_a_ramp_never_leaves_its_ends(steps: int, begin: float) -> None:
    values = [ramp(step, steps, 1.0, 0.0, begin) for step in range(steps)]
    assert all(0 <= value <= 1 for value in values)
    assert values == sorted(values, reverse=True)


def test_pressure_is_steered_to_a_density_with_a_steep_power_up_to_a_factor() -> None:
    plain = options(
        sparsity_weight_start=40.0, sparsity_weight_end=120.0, sparsity_ramp_start=0.5, steps=11
    )
    aimed = replace(plain, target_density=0.02)
    assert [sparsity_coefficient(10, density, plain) for density in (1.0, 0.02, 0.001)] == [
        120.0
    ] * 3
    assert [sparsity_coefficient(10, density, aimed) for density in (1.0, 0.02)] == [600.0, 120.0]
    assert sparsity_coefficient(10, 0.021, aimed) == pytest.approx(120.0 * 1.05**30)
    assert sparsity_coefficient(10, 0.01, aimed) == pytest.approx(120.0 / 2**30)
    assert sparsity_coefficient(0, 0.01, aimed) == pytest.approx(40.0 / 2**30)


def test_the_learning_rate_falls_at_the_end_alone() -> None:
    falling = options(steps=10, lr=0.5, warmup=0.0, decay=0.2)
    assert [learning_rate(step, falling) for step in (0, 8, 9)] == pytest.approx([0.5, 0.5, 0.25])
