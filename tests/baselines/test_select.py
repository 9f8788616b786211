import pytest
import torch

from knowsub.baselines.methods import scale_counts, select, set_difference


def test_the_highest_scores_are_taken_site_by_site() -> None:
    scores = {"a": torch.tensor([[1.0, 5.0], [3.0, 2.0]]), "b": torch.tensor([9.0, 8.0, 7.0])}
    mask = select(scores, {"a": 2, "b": 1}, "model", {"method": "hand"})
    assert mask.bits["a"].tolist() == [[False, True], [True, False]]
    assert mask.bits["b"].tolist() == [True, False, False]
    assert (mask.model, mask.meta) == ("model", {"method": "hand"})


def test_equal_scores_are_taken_in_order() -> None:
    mask = select({"a": torch.zeros(5)}, {"a": 2}, "model", {})
    assert mask.bits["a"].tolist() == [True, True, False, False, False]


def test_a_site_without_a_count_gets_nothing() -> None:
    assert select({"a": torch.ones(3)}, {}, "model", {}).size == 0


@pytest.mark.parametrize(
    ("scores", "count", "message"),
    [
        (torch.ones(3), 4, "has 3 weights, not 4"),
        (torch.tensor([1.0, float("nan")]), 1, "not a number"),
    ],
)
def test_impossible_selections_are_refused(scores: torch.Tensor, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select({"a": scores}, {"a": count}, "model", {})
    with pytest.raises(ValueError, match="site b has no scores"):
        select({"a": torch.ones(3)}, {"b": 1}, "model", {})


def test_what_the_controls_need_comes_last() -> None:
    target = {"a": torch.tensor([5.0, 4.0, 3.0, 2.0])}
    control = {"a": torch.tensor([9.0, 0.0, 8.0, 0.0])}
    scores = set_difference(target, control, 0.5)
    order = [select(scores, {"a": count}, "m", {}).bits["a"].tolist() for count in (1, 2, 3)]
    assert order[0] == [False, True, False, False]
    assert order[1] == [False, True, False, True]
    assert order[2] == [True, True, False, True]


def test_what_the_controls_do_not_need_is_not_protected() -> None:
    scores = set_difference({"a": torch.tensor([5.0, 4.0])}, {"a": torch.zeros(2)}, 0.9)
    assert select(scores, {"a": 1}, "m", {}).bits["a"].tolist() == [True, False]


def test_nothing_protected_leaves_the_order_of_importance() -> None:
    target = {"a": torch.randn(7, 3, generator=torch.Generator().manual_seed(0))}
    scores = set_difference(target, {"a": target["a"].abs()}, 0.0)
    assert scores["a"].flatten().argsort().equal(target["a"].flatten().argsort())


def test_sizes_are_scaled_and_stay_within_the_site() -> None:
    assert scale_counts({"a": 10, "b": 7}, 2.5, {"a": 100, "b": 12}) == {"a": 25, "b": 12}
    assert scale_counts({"a": 10}, 0.25, {"a": 100}) == {"a": 2}
