from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest

from knowsub.downstream.options import Distractors
from knowsub.downstream.questions import (
    Group,
    Question,
    check_question,
    mark_targets,
    questions_from_facts,
    split_questions,
)
from knowsub.kg.facts import Fact, Split, Statement
from tests.downstream.setting import question, questions, statement


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": " "}, "the question is empty"),
        ({"choices": (" a",)}, "1 choices; a question needs at least 2"),
        ({"choices": (" a", " ")}, "choice 2 is missing"),
        ({"choices": (" a", " b", " A ")}, "duplicate choice 'a'"),
        ({"answer": 3}, "answer 3 is outside 0 to 2"),
        ({"answer": -1}, "answer -1 is outside 0 to 2"),
    ],
)
def test_an_impossible_question_is_refused_with_its_place(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=rf"^file:7: {message}"):
        check_question(replace(question(0), **change), "file:7")


def test_target_questions_are_found_by_id_or_by_subject_and_object() -> None:
    fact = Fact("x", "AtLocation", "y", "drawstring bag", "Air port")
    tied = replace(question(1), fact="Drawstring_bag|answer|air port")
    found = mark_targets([question(0), tied, question(2)], [fact], {"q2"})
    assert [each.group for each in found] == [Group.OTHER, Group.TARGET, Group.TARGET]


def parts(pool: list[Question], test: list[Question], share: float = 0.0) -> list[set[str]]:
    task = split_questions(pool, test, share, 0.25, 0)
    return [{each.fact for each in part} for part in (task.train, task.validation, task.test)]


def test_splits_share_no_fact() -> None:
    pool = [replace(question(number), fact=f"f{number // 2}|r|t") for number in range(40)]
    test = [replace(question(number), fact="f3|r|t") for number in (90, 91)]
    train, validation, tested = parts(pool, test)
    assert not train & validation
    assert not (train | validation) & tested
    assert len(train) + len(validation) == 19  # f3 is tested, so it is not trained on
    assert len(validation) == 5


def test_target_questions_are_tested_unless_a_share_of_them_is_trained_on() -> None:
    pool = [question(number) for number in range(20)]
    pool += [question(number, Group.TARGET) for number in range(20, 30)]
    assert len(split_questions(pool, [question(99)], 0.0, 0.2, 0).test) == 11
    task = split_questions(pool, [question(99)], 0.6, 0.2, 0)
    assert sum(each.group is Group.TARGET for each in task.test) == 4
    assert sum(each.group is Group.TARGET for each in task.train + task.validation) == 6
    assert task == split_questions(pool, [question(99)], 0.6, 0.2, 0)


@pytest.mark.parametrize(
    ("pool", "test", "empty"), [(0, 3, "train"), (1, 3, "validation"), (8, 0, "test")]
)
def test_an_empty_split_is_refused(pool: int, test: int, empty: str) -> None:
    asked = questions(20)
    with pytest.raises(ValueError, match=f"the {empty} split of the questions is empty"):
        split_questions(asked[:pool], asked[10 : 10 + test], 0.0, 0.25, 0)


def test_chance_is_the_mean_of_one_over_the_choices() -> None:
    two = replace(question(50), choices=(" a", " b"), answer=0)
    assert split_questions(questions(8), [question(51), two], 0.0, 0.25, 0).chance == pytest.approx(
        5 / 12
    )


CHAIN = [("ziggurat", "temple"), ("temple", "building"), ("building", "structure")]
OBJECTS = ("bird", "fish", "tool", "tree", "dance")


def statements() -> list[Statement]:
    rows = [statement(subject, object_, Split.TARGET) for subject, object_ in CHAIN]
    rows.append(statement("barn", "building", Split.NEIGHBORHOOD_HELDOUT))
    rows.append(statement("shed", "building", Split.NEIGHBORHOOD_TRAIN))
    for number in range(30):
        split = Split.CONTROL_HELDOUT if number % 3 == 0 else Split.CONTROL_TRAIN
        rows.append(statement(f"h{number}", OBJECTS[number % 5], split))
    return rows


def made(
    statements: Sequence[Statement], choices: int = 4, kind: Distractors = Distractors.UNIFORM
) -> tuple[list[Question], list[Question]]:
    return questions_from_facts(statements, "kind", choices, kind, 0)


def test_a_question_is_a_statement_without_its_object_and_the_answer_is_the_object() -> None:
    pool, test = made(statements())
    for each in pool + test:
        subject, _, object_ = each.fact.split("|")
        assert each.prompt == f"A {subject} is a kind of"
        assert each.choices[each.answer] == f" {object_}"
        assert len(set(each.choices)) == 4


def test_what_follows_from_a_fact_is_no_distractor() -> None:
    question_ = next(each for each in made(statements(), 5)[0] if each.fact.startswith("ziggurat"))
    assert set(question_.choices) - {" temple"} < {f" {text}" for text in OBJECTS}


def test_what_is_true_of_another_sense_of_the_word_is_no_distractor() -> None:
    senses = [
        statement("crane.1", "bird", Split.CONTROL_TRAIN, subject_words="crane"),
        statement("crane.2", "tool", Split.CONTROL_TRAIN, subject_words="Crane"),
    ]
    asked = [each for each in made([*statements(), *senses])[0] if each.fact.startswith("crane")]
    assert len(asked) == 2
    assert all({" bird", " tool"} & set(each.choices) == {each.choices[each.answer]}
               for each in asked)  # fmt: skip


def test_a_target_object_is_no_distractor_of_a_control_question() -> None:
    for each in chain(*made(statements())):
        if each.group is Group.OTHER:
            assert set(each.choices) <= {f" {text}" for text in OBJECTS}


def test_facts_unused_in_mask_training_are_tested_and_used_neighborhood_ones_left_out() -> None:
    pool, test = made(statements())
    assert [each.group for each in pool].count(Group.TARGET) == 3
    assert [each.group for each in test].count(Group.NEIGHBORHOOD) == 1
    assert len(test) == 11
    assert len(pool) == 3 + 20


def test_distractors_by_frequency_follow_the_frequency() -> None:
    many = [statement(f"x{number}", "bird", Split.CONTROL_TRAIN) for number in range(300)]
    asked = [each for each in made([*statements(), *many], 2, Distractors.FREQUENCY)[0]
             if not each.fact.endswith("|bird")]  # fmt: skip
    share = sum(" bird" in each.choices for each in asked) / len(asked)
    assert share > 0.7  # it is 306 of the 330 control tails


def test_the_same_seed_asks_the_same_questions_whatever_else_is_asked() -> None:
    assert made(statements()) == made(statements())
    assert {each.answer for each in made(statements())[0]} == {0, 1, 2, 3}


def test_an_unknown_family_and_too_few_distractors_are_refused() -> None:
    with pytest.raises(ValueError, match="no statement of family 'odd'; there are kind"):
        questions_from_facts(statements(), "odd", 4, Distractors.UNIFORM, 0)
    with pytest.raises(ValueError, match="has 4 possible distractors, 5 are wanted"):
        made(statements(), 6)
