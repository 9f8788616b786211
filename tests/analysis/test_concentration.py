from __future__ import annotations

import numpy as np
import pytest

from knowsub.analysis.concentration import concentration, gini


def test_the_gini_coefficient_is_0_when_even_and_1_in_the_limit():
    assert gini(np.array([3, 3, 3])) == pytest.approx(0)
    assert gini(np.array([0] * 999 + [5])) == pytest.approx(0.999)
    assert gini(np.array([1, 3])) == pytest.approx(0.25)


def test_expectations_under_uniform_placement_are_what_draws_give_on_average():
    chance = np.random.default_rng(0)
    units, size, chosen = 200, 50, 400
    drawn = chance.multivariate_hypergeometric([size] * units, chosen, size=300)
    rows = [concentration("s", "output", row, units * size) for row in drawn]
    assert np.mean([row.gini for row in rows]) == pytest.approx(rows[0].gini_uniform, rel=0.02)
    tops = [row.top_share for row in rows]
    assert np.mean(tops) == pytest.approx(rows[0].top_share_uniform, rel=0.03)
