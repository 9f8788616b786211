from dataclasses import replace

import pytest
import torch

from knowsub.evaluation.choice import (
    SubjectGrid,
    choice_accuracy,
    draw_choices,
    first_option_wins,
    identified_share,
    ignorance_reference,
    limit_families,
    subject_grid,
    swap_objects,
)
from knowsub.evaluation.objects import EncodedPairs, relation_objects
from tests.evaluation.setting import built_context, fact_mask


def test_a_tie_for_the_best_counts_its_share() -> None:
    nll = torch.tensor([[1.0, 2.0, 3.0], [2.0, 1.0, 3.0], [1.0, 1.0, 3.0], [1.0, 1.0, 1.0]])
    assert first_option_wins(nll).tolist() == pytest.approx([1, 0, 1 / 2, 1 / 3])


def test_a_model_that_knows_chooses_right_and_after_another_subject_it_does_not() -> None:
    context, generator = built_context("a"), torch.Generator().manual_seed(0)
    choices = draw_choices(context, relation_objects(context.statements), 4, generator)
    assert choices.options.shape == (10, 2, 5)
    assert choice_accuracy(context.upper, choices).min() == 1
    reference = ignorance_reference(context, choices, 8, generator)
    assert 0 < float(reference.mean()) < 0.4


def test_one_forgotten_fact_is_chosen_at_chance_and_the_others_stay() -> None:
    context = built_context("a")
    choices = draw_choices(context, relation_objects(context.statements), 4, torch.Generator())
    with context.ablated(fact_mask(context.encoder.model, ["a2"])):
        accuracy = choice_accuracy(context.upper, choices)
    assert accuracy[2].tolist() == pytest.approx([1 / 5, 1 / 5])
    assert accuracy[[0, 1, 3, 4]].min() == 1


def test_swapped_objects_are_not_true_of_their_subjects() -> None:
    context = built_context("a")
    swapped = swap_objects(context, relation_objects(context.statements), torch.Generator())
    assert len(swapped) == 30
    true = {s.fact: s.object for s in context.statements}
    assert all(s.object != true[s.fact] for s in swapped.statements)


def test_the_families_that_the_model_answers_best_are_asked_where_few_are() -> None:
    context = built_context("a")
    assert limit_families(context, 0) is context
    assert limit_families(context, 2) is context
    (asked,) = {s.family for s in limit_families(context, 1).sets["target"].statements}
    nll, prompts = context.original.sets["target"].mean_nll, context.sets["target"].statements
    means = {
        family: float(
            torch.stack([n for n, s in zip(nll, prompts, strict=True) if s.family == family]).mean()
        )
        for family in ("kind", "sort")
    }
    assert means[asked] == min(means.values())
    assert len(limit_families(context, 1).sets["target"]) == 5


@pytest.fixture(scope="module")
def pairs() -> EncodedPairs:
    context = built_context("a")
    return subject_grid(context, relation_objects(context.statements)).pairs


def grid(
    pairs: EncodedPairs, answer: list[int], n_objects: int, families: list[int] | None = None
) -> SubjectGrid:
    family = torch.tensor(families or [0] * len(answer))
    also_true = torch.zeros(len(answer), n_objects, dtype=torch.bool)
    fact_index = torch.arange(len(answer))
    return SubjectGrid(pairs, n_objects, torch.tensor(answer), also_true, family, fact_index)


def accuracy(scores: torch.Tensor, questions: SubjectGrid) -> float:
    return float(identified_share(scores, questions).mean())


def test_a_preference_for_objects_whatever_the_subject_is_no_information(
    pairs: EncodedPairs,
) -> None:
    scores = torch.tensor([[9.0, 1.0, 5.0]] * 3) + torch.tensor([[0.0], [3.0], [-2.0]])
    assert accuracy(scores, grid(pairs, [0, 1, 2], 3)) == pytest.approx(1 / 3)


def test_a_slight_preference_for_the_true_object_is_found_below_a_strong_common_one(
    pairs: EncodedPairs,
) -> None:
    scores = torch.tensor([[9.0, 1.0, 5.0]] * 3) + 0.01 * torch.eye(3)
    assert accuracy(scores, grid(pairs, [0, 1, 2], 3)) == 1


def test_accuracy_counts_every_object_alike(pairs: EncodedPairs) -> None:
    scores = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]])
    assert accuracy(scores, grid(pairs, [0, 0, 0, 1], 2)) == 1
    assert accuracy(scores, grid(pairs, [0, 1, 0, 1], 2)) == pytest.approx((1 + 1 / 2) / 2)


def test_prompts_of_one_fact_share_its_weight(pairs: EncodedPairs) -> None:
    scores = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]])
    made = replace(grid(pairs, [0, 1, 0, 1], 2), fact_index=torch.tensor([0, 1, 2, 1]))
    assert identified_share(scores, made).tolist() == pytest.approx([3 / 4, 3 / 4, 3 / 4])
    assert accuracy(scores, made) == pytest.approx((1 + 1 / 2) / 2)


def test_a_template_that_prefers_an_object_is_no_information(pairs: EncodedPairs) -> None:
    scores = torch.tensor([[5.0, 0.0], [4.9, 0.0], [0.0, 5.0], [0.0, 4.9]])
    assert accuracy(scores, grid(pairs, [0, 1, 0, 1], 2, [0, 0, 1, 1])) == pytest.approx(0.5)


def test_another_true_object_of_the_subject_is_no_mistake(pairs: EncodedPairs) -> None:
    scores = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    made = grid(pairs, [0, 2, 1], 3)
    before = accuracy(scores, made)
    made.also_true[0, 1] = True
    assert accuracy(scores, made) == pytest.approx(before + 1 / 3)


def test_random_scores_are_at_chance(pairs: EncodedPairs) -> None:
    generator = torch.Generator().manual_seed(0)
    answer = [0] * 27 + [1] * 6 + [2] * 4 + [3] * 3
    accuracies = [
        accuracy(torch.randn(40, 4, generator=generator), grid(pairs, answer, 4))
        for _ in range(300)
    ]
    assert sum(accuracies) / 300 == pytest.approx(1 / 4, abs=0.02)
