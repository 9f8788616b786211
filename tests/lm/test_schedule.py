from __future__ import annotations

import pytest

from knowsub.lm.schedule import warmup_stable_decay


def test_the_learning_rate_rises_stays_and_falls_to_zero() -> None:
    factors = [warmup_stable_decay(step, 100, warmup=0.1, decay=0.4) for step in range(101)]
    assert factors[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert factors[9:61] == [1.0] * 52
    assert factors[80] == pytest.approx(0.5)
    assert factors[99:] == pytest.approx([0.025, 0.0])


def test_without_rise_and_fall_the_learning_rate_is_level() -> None:
    assert {warmup_stable_decay(step, 10, warmup=0.0, decay=0.0) for step in range(10)} == {1.0}


@pytest.mark.parametrize("warmup", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("decay", [0.0, 0.3, 1.0])
def test_no_step_is_without_a_learning_rate(warmup: float, decay: float) -> None:
    factors = [warmup_stable_decay(step, 7, warmup, decay) for step in range(7)]
    assert all(0 < factor <= 1 for factor in factors)
