import pytest
import torch

from knowsub.evaluation.context import PrefixEncoder, score_facts
from knowsub.evaluation.objects import OtherSubjects, encode_pairs, pair_nll, relation_objects
from knowsub.kg.facts import Fact, Role, Split, Statement
from knowsub.lm.blocks import upper_blocks
from tests.architectures import tiny
from tests.evaluation.setting import tokenizer


def statement(
    subject: str, object_words: str, relation: str = "is", family: str = "kind"
) -> Statement:
    fact = Fact(f"{subject}.n.01", relation, object_words, subject, object_words)
    prompt = f"{family} {subject}"
    return Statement(fact, Split.TARGET, family, Role.TRAIN, prompt, f" {object_words}")


def test_distractors_are_other_objects_that_are_not_true_of_the_subject() -> None:
    pool = [
        statement("x", "t0"), statement("x", "t1"),
        *(statement(f"h{i}", f"t{i}") for i in range(2, 6)),
    ]  # fmt: skip
    objects = relation_objects(pool)
    for by_frequency in (True, False):
        drawn = objects.draw(
            pool[0].fact, by_frequency=by_frequency, number=4, generator=torch.Generator()
        )
        assert sorted(objects.texts[index] for index in drawn) == [" t2", " t3", " t4", " t5"]


def test_distractors_come_from_the_relation_first() -> None:
    same = [statement(f"h{i}", f"t{i}") for i in range(3)]
    other = [statement(f"g{i}", f"u{i}", "has") for i in range(9)]
    objects = relation_objects([*same, *other])
    drawn = objects.draw(same[0].fact, by_frequency=False, number=3, generator=torch.Generator())
    texts = [objects.texts[index] for index in drawn]
    assert {" t1", " t2"} < set(texts)
    assert len(texts) == 3


def test_frequent_objects_are_drawn_more_often_by_frequency_alone() -> None:
    pool = [
        statement("x", "own"), statement("rare", "t1"),
        *(statement(f"h{i}", "t0") for i in range(9)),
    ]  # fmt: skip
    objects, generator = relation_objects(pool), torch.Generator().manual_seed(0)
    share = {}
    for by_frequency in (True, False):
        drawn = [
            objects.draw(pool[0].fact, by_frequency=by_frequency, number=1, generator=generator)
            for _ in range(300)
        ]
        share[by_frequency] = sum(objects.texts[index] == " t0" for (index,) in drawn) / 300
    assert share[True] == pytest.approx(0.9, abs=0.06)
    assert share[False] == pytest.approx(0.5, abs=0.09)


def test_a_fact_counts_once_however_often_it_is_stated() -> None:
    pool = [statement("x", "t0"), statement("x", "t0", family="sort"), statement("y", "t1")]
    assert relation_objects(pool).counts["is"] == {0: 1, 1: 1}


def test_another_subject_keeps_relation_and_family() -> None:
    pool = [
        statement("x", "t0"), statement("y", "t1"), statement("y", "t1", family="sort"),
        statement("z", "t", "has"),
    ]  # fmt: skip
    drawn = OtherSubjects(pool).draw(pool[0], torch.Generator())
    assert (drawn.fact.subject_words, drawn.family) == ("y", "kind")
    with pytest.raises(ValueError, match="no subject but 'z'"):
        OtherSubjects(pool).draw(pool[3], torch.Generator())


def prompted(prompt: str, text: str) -> Statement:
    fact = Fact(prompt, "is", text, prompt, text)
    return Statement(fact, Split.TARGET, "kind", Role.TRAIN, prompt, text)


@pytest.fixture(scope="module")
def encoder() -> PrefixEncoder:
    return PrefixEncoder(tiny("gpt2"), tokenizer(), 2)


MIXED = [
    prompted("kind a0 b0 b1", " t0 t1"), prompted("a1", " t2"), prompted("sort a2", " t3 t4 t5"),
    prompted("kind a3", " t0"),
]  # fmt: skip


def test_scores_come_back_in_the_order_of_the_statements(encoder: PrefixEncoder) -> None:
    together = score_facts(upper_blocks(encoder.model, 2), encoder.encode(MIXED))
    assert together.tokens.tolist() == [2, 1, 3, 1]
    for index, row in enumerate(MIXED):
        alone = score_facts(encoder.model, encoder.encode([row]).without_lower_states())
        assert together.nll[index] == pytest.approx(float(alone.nll[0]), rel=1e-4)
        assert together.rank[index] == alone.rank[0]


def test_pairs_of_any_length_agree_with_statements(encoder: PrefixEncoder) -> None:
    objects = [" t0", " t1 t2", " t5"]
    grid = torch.cartesian_prod(torch.arange(4), torch.arange(3))
    upper = upper_blocks(encoder.model, 2)
    nlls = pair_nll(upper, encode_pairs(encoder, MIXED, objects, grid))
    for (row, column), nll in zip(grid.tolist(), nlls.tolist(), strict=True):
        facts = encoder.encode([prompted(MIXED[row].prompt, objects[column])])
        assert nll == pytest.approx(float(score_facts(upper, facts).mean_nll), rel=1e-4)


def test_means_over_facts_weigh_every_prompt_of_a_fact(encoder: PrefixEncoder) -> None:
    facts = encoder.encode([prompted("a0", " t0"), prompted("a1", " t1"), prompted("a0", " t0")])
    assert facts.per_fact(torch.tensor([1.0, 5.0, 2.0])).tolist() == [1.5, 5.0]
