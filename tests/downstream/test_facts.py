from collections.abc import Sequence
from itertools import chain

import pytest

from knowsub.downstream.options import Distractors
from knowsub.downstream.questions import Group, Question, questions_from_facts
from knowsub.kg.facts import Split, Statement
from tests.downstream.setting import statement

CHAIN = [("ziggurat", "temple"), ("temple", "building"), ("building", "structure")]
TAILS = ("bird", "fish", "tool", "tree", "dance")


def told() -> list[Statement]:
    found = [statement(head, tail, Split.TARGET) for head, tail in CHAIN]
    found.append(statement("barn", "building", Split.NEIGHBORHOOD_HELDOUT))
    found.append(statement("shed", "building", Split.NEIGHBORHOOD_TRAIN))
    for number in range(30):
        split = Split.CONTROL_HELDOUT if number % 3 == 0 else Split.CONTROL_TRAIN
        found.append(statement(f"h{number}", TAILS[number % 5], split))
    return found


def made(
    statements: Sequence[Statement], choices: int = 4, kind: Distractors = Distractors.UNIFORM
) -> tuple[list[Question], list[Question]]:
    return questions_from_facts(statements, "kind", choices, kind, 0)


def test_a_question_is_a_statement_without_its_tail_and_the_answer_is_the_tail() -> None:
    pool, test = made(told())
    for each in pool + test:
        head, _, tail = each.fact.split("|")
        assert each.prompt == f"A {head} is a kind of"
        assert each.choices[each.answer] == f" {tail}"
        assert len(set(each.choices)) == 4


def test_what_follows_from_a_fact_is_no_distractor() -> None:
    asked = next(each for each in made(told(), 5)[0] if each.fact.startswith("ziggurat"))
    assert set(asked.choices) - {" temple"} < {f" {tail}" for tail in TAILS}


def test_what_is_true_of_another_sense_of_the_word_is_no_distractor() -> None:
    senses = [
        statement("crane.1", "bird", Split.CONTROL_TRAIN, head_words="crane"),
        statement("crane.2", "tool", Split.CONTROL_TRAIN, head_words="Crane"),
    ]
    asked = [each for each in made([*told(), *senses])[0] if each.fact.startswith("crane")]
    assert len(asked) == 2
    assert all({" bird", " tool"} & set(each.choices) == {each.choices[each.answer]}
               for each in asked)  # fmt: skip


def test_a_target_tail_is_no_distractor_of_a_control_question() -> None:
    for each in chain(*made(told())):
        if each.group is Group.OTHER:
            assert set(each.choices) <= {f" {tail}" for tail in TAILS}


def test_facts_that_mask_training_never_used_are_tested_and_near_ones_it_used_left_out() -> None:
    pool, test = made(told())
    assert [each.group for each in pool].count(Group.TARGET) == 3
    assert [each.group for each in test].count(Group.NEAR) == 1
    assert len(test) == 11
    assert len(pool) == 3 + 20


def test_distractors_by_frequency_follow_the_frequency() -> None:
    many = [statement(f"x{number}", "bird", Split.CONTROL_TRAIN) for number in range(300)]
    asked = [each for each in made([*told(), *many], 2, Distractors.FREQUENCY)[0]
             if not each.fact.endswith("|bird")]  # fmt: skip
    share = sum(" bird" in each.choices for each in asked) / len(asked)
    assert share > 0.7  # it is 306 of the 330 control tails


def test_the_same_seed_asks_the_same_questions_whatever_else_is_asked() -> None:
    assert made(told()) == made(told())
    assert {each.answer for each in made(told())[0]} == {0, 1, 2, 3}


def test_an_unknown_family_and_too_few_distractors_are_refused() -> None:
    with pytest.raises(ValueError, match="no statement of family 'odd'; there are kind"):
        questions_from_facts(told(), "odd", 4, Distractors.UNIFORM, 0)
    with pytest.raises(ValueError, match="has 4 possible distractors, 5 are wanted"):
        made(told(), 6)
