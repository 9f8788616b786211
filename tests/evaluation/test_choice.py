import pytest
import torch

from knowsub.evaluation.choice import choice_accuracy, ignorance, set_choices, won
from knowsub.evaluation.objects import OtherSubjects, relation_objects
from knowsub.kg.facts import Fact, Role, Split, Statement
from tests.evaluation.setting import built_bench, fact_mask, statements


def told(head: str, tail: str, relation: str = "is", family: str = "kind") -> Statement:
    fact = Fact(f"{head}.n.01", relation, tail, head, tail)
    return Statement(fact, Split.TARGET, family, Role.TRAIN, f"{family} {head}", f" {tail}")


def test_a_tie_for_the_best_counts_its_share() -> None:
    nll = torch.tensor([[1.0, 2.0, 3.0], [2.0, 1.0, 3.0], [1.0, 1.0, 3.0], [1.0, 1.0, 1.0]])
    assert won(nll).tolist() == pytest.approx([1, 0, 1 / 2, 1 / 3])


def test_distractors_are_other_tails_that_are_not_true_of_the_head() -> None:
    pool = [told("x", "t0"), told("x", "t1"), *(told(f"h{i}", f"t{i}") for i in range(2, 6))]
    tails = relation_objects(pool)
    for by_frequency in (True, False):
        drawn = tails.drawn(
            pool[0].fact, by_frequency=by_frequency, number=4, generator=torch.Generator()
        )
        assert sorted(tails.texts[index] for index in drawn) == [" t2", " t3", " t4", " t5"]


def test_distractors_come_from_the_relation_first() -> None:
    near = [told(f"h{i}", f"t{i}") for i in range(3)]
    far = [told(f"g{i}", f"u{i}", "has") for i in range(9)]
    tails = relation_objects([*near, *far])
    drawn = tails.drawn(near[0].fact, by_frequency=False, number=3, generator=torch.Generator())
    texts = [tails.texts[index] for index in drawn]
    assert {" t1", " t2"} < set(texts)
    assert len(texts) == 3


def test_frequent_tails_are_drawn_more_often_by_frequency_alone() -> None:
    pool = [told("x", "own"), told("rare", "t1"), *(told(f"h{i}", "t0") for i in range(9))]
    tails, generator = relation_objects(pool), torch.Generator().manual_seed(0)
    share = {}
    for by_frequency in (True, False):
        drawn = [
            tails.drawn(pool[0].fact, by_frequency=by_frequency, number=1, generator=generator)
            for _ in range(300)
        ]
        share[by_frequency] = sum(tails.texts[one[0]] == " t0" for one in drawn) / 300
    assert share[True] == pytest.approx(0.9, abs=0.06)
    assert share[False] == pytest.approx(0.5, abs=0.09)


def test_a_fact_counts_once_however_often_it_is_stated() -> None:
    stated = [told("x", "t0"), told("x", "t0", family="sort"), told("y", "t1")]
    assert relation_objects(stated).counts["is"] == {0: 1, 1: 1}


def test_another_head_keeps_relation_and_family() -> None:
    pool = [told("x", "t0"), told("y", "t1"), told("y", "t1", family="sort"), told("z", "t", "has")]
    drawn = OtherSubjects(pool).drawn(pool[0], torch.Generator())
    assert (drawn.fact.subject_words, drawn.family) == ("y", "kind")
    with pytest.raises(ValueError, match="no head but 'z'"):
        OtherSubjects(pool).drawn(pool[3], torch.Generator())


def test_who_knows_chooses_right_and_who_is_asked_about_another_head_does_not() -> None:
    bench, generator = built_bench("a"), torch.Generator().manual_seed(0)
    told_all = [
        one for one in statements("a") if one.role == Role.TRAIN and one.fact.subject[0] != "n"
    ]
    tails = relation_objects(told_all)
    choices = set_choices(bench.encoder, bench.sets["target"], tails, 4, generator)
    assert choices.options.shape == (10, 2, 5)
    assert choice_accuracy(bench.upper, choices).min() == 1
    other = ignorance(bench.encoder, bench.upper, choices, told_all, 8, generator)
    assert 0 < float(other.mean()) < 0.4


def test_one_forgotten_fact_is_chosen_at_chance_and_the_others_stay() -> None:
    bench = built_bench("a")
    tails = relation_objects(bench.statements)
    choices = set_choices(bench.encoder, bench.sets["target"], tails, 4, torch.Generator())
    with bench.ablated(fact_mask(bench.encoder.model, ["a2"])):
        accuracy = choice_accuracy(bench.upper, choices)
    assert accuracy[2].tolist() == pytest.approx([1 / 5, 1 / 5])
    assert accuracy[[0, 1, 3, 4]].min() == 1
