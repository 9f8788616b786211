import pytest

from knowsub.evaluation.specificity import (
    cross_row,
    diagonal_dominance,
    other_targets,
    row_dominance,
)
from tests.evaluation.setting import HEADS, built_bench, fact_mask, statements


def test_dominance_by_hand() -> None:
    matrix = {"a": {"a": 6.0, "b": -0.5}, "b": {"a": 1.5, "b": 4.0}}
    assert diagonal_dominance(matrix) == pytest.approx(5.0)
    assert row_dominance(6.0, {"b": -0.5, "c": 1.0}) == pytest.approx(8.0)


def test_no_damage_elsewhere_gives_a_finite_dominance() -> None:
    assert row_dominance(6.0, {"b": 0.0}) == pytest.approx(6000)


def test_a_matrix_that_is_not_square_is_refused() -> None:
    with pytest.raises(ValueError, match="square"):
        diagonal_dominance({"a": {"a": 1.0}})
    with pytest.raises(ValueError, match="square"):
        diagonal_dominance({"a": {"a": 1.0, "b": 0.0}, "b": {"b": 1.0}})


def test_the_row_tells_whose_facts_were_damaged() -> None:
    bench = built_bench("a")
    others = other_targets(bench, {"b": statements("b"), "same": statements("a")})
    assert others.keys() == {"b"}
    with bench.ablated(fact_mask(bench.encoder.model, [head for head in HEADS if head[0] == "b"])):
        assert cross_row(bench, others)["b"] > 3
    with bench.ablated(fact_mask(bench.encoder.model, ["a0"])):
        assert cross_row(bench, others)["b"] == pytest.approx(0)
