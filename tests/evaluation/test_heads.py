from dataclasses import replace

import pytest
import torch

from knowsub.evaluation.identifiability import SubjectGrid, identified_share, subject_grid
from knowsub.evaluation.objects import Pairs, relation_objects
from tests.evaluation.setting import built_bench


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    bench = built_bench("a")
    return subject_grid(
        bench.encoder, bench.sets["target"], relation_objects(bench.statements)
    ).pairs


def grid(
    pairs: Pairs, own: list[int], tails: int, families: list[int] | None = None
) -> SubjectGrid:
    family = torch.tensor(families or [0] * len(own))
    also = torch.zeros(len(own), tails, dtype=torch.bool)
    owner = torch.arange(len(own))
    return SubjectGrid(pairs, tails, torch.tensor(own), also, family, owner)


def accuracy(scores: torch.Tensor, made: SubjectGrid) -> float:
    return float(identified_share(scores, made).mean())


def test_a_preference_for_tails_whatever_the_head_is_no_information(pairs: Pairs) -> None:
    scores = torch.tensor([[9.0, 1.0, 5.0]] * 3) + torch.tensor([[0.0], [3.0], [-2.0]])
    assert accuracy(scores, grid(pairs, [0, 1, 2], 3)) == pytest.approx(1 / 3)


def test_a_slight_preference_for_the_true_tail_is_found_below_a_strong_common_one(
    pairs: Pairs,
) -> None:
    scores = torch.tensor([[9.0, 1.0, 5.0]] * 3) + 0.01 * torch.eye(3)
    assert accuracy(scores, grid(pairs, [0, 1, 2], 3)) == 1


def test_accuracy_counts_every_tail_alike(pairs: Pairs) -> None:
    right = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]])
    assert accuracy(right, grid(pairs, [0, 0, 0, 1], 2)) == 1
    assert accuracy(right, grid(pairs, [0, 1, 0, 1], 2)) == pytest.approx((1 + 1 / 2) / 2)


def test_prompts_of_one_fact_share_its_vote(pairs: Pairs) -> None:
    right = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]])
    made = replace(grid(pairs, [0, 1, 0, 1], 2), owner=torch.tensor([0, 1, 2, 1]))
    assert identified_share(right, made).tolist() == pytest.approx([3 / 4, 3 / 4, 3 / 4])
    assert accuracy(right, made) == pytest.approx((1 + 1 / 2) / 2)


def test_a_template_that_prefers_a_tail_is_no_information(pairs: Pairs) -> None:
    scores = torch.tensor([[5.0, 0.0], [4.9, 0.0], [0.0, 5.0], [0.0, 4.9]])
    assert accuracy(scores, grid(pairs, [0, 1, 0, 1], 2, [0, 0, 1, 1])) == pytest.approx(0.5)


def test_another_true_tail_of_the_head_is_no_mistake(pairs: Pairs) -> None:
    scores = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    made = grid(pairs, [0, 2, 1], 3)
    before = accuracy(scores, made)
    made.also[0, 1] = True
    assert accuracy(scores, made) == pytest.approx(before + 1 / 3)


def test_random_scores_are_at_chance(pairs: Pairs) -> None:
    generator = torch.Generator().manual_seed(0)
    own = [0] * 27 + [1] * 6 + [2] * 4 + [3] * 3
    found = [
        accuracy(torch.randn(40, 4, generator=generator), grid(pairs, own, 4)) for _ in range(300)
    ]
    assert sum(found) / 300 == pytest.approx(1 / 4, abs=0.02)
