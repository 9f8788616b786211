from dataclasses import replace
from typing import Any

import pytest

from knowsub.downstream.questions import Group, Question, check, divide, tie
from knowsub.kg.facts import Fact
from tests.downstream.setting import question, questions


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": " "}, "the question is empty"),
        ({"choices": (" a",)}, "1 choices; a question needs at least 2"),
        ({"choices": (" a", " ")}, "choice 2 is missing"),
        ({"choices": (" a", " b", " A ")}, "choice 'a' stands twice"),
        ({"answer": 3}, "answer 3 is outside 0 to 2"),
        ({"answer": -1}, "answer -1 is outside 0 to 2"),
    ],
)
def test_an_impossible_question_is_refused_with_its_place(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=rf"^file:7: {message}"):
        check(replace(question(0), **change), "file:7")


def test_questions_are_tied_by_identifier_or_by_head_and_tail() -> None:
    fact = Fact("x", "AtLocation", "y", "drawstring bag", "Air port")
    tied = replace(question(1), fact="Drawstring_bag|answer|air port")
    found = tie([question(0), tied, question(2)], [fact], {"q2"})
    assert [each.group for each in found] == [Group.OTHER, Group.TARGET, Group.TARGET]


def parts(pool: list[Question], test: list[Question], share: float = 0.0) -> list[set[str]]:
    task = divide(pool, test, share, 0.25, 0)
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
    assert len(divide(pool, [question(99)], 0.0, 0.2, 0).test) == 11
    task = divide(pool, [question(99)], 0.6, 0.2, 0)
    assert sum(each.group is Group.TARGET for each in task.test) == 4
    assert sum(each.group is Group.TARGET for each in task.train + task.validation) == 6
    assert task == divide(pool, [question(99)], 0.6, 0.2, 0)


@pytest.mark.parametrize(
    ("pool", "test", "empty"), [(0, 3, "train"), (1, 3, "validation"), (8, 0, "test")]
)
def test_an_empty_split_is_refused(pool: int, test: int, empty: str) -> None:
    asked = questions(20)
    with pytest.raises(ValueError, match=f"the {empty} split of the questions is empty"):
        divide(asked[:pool], asked[10 : 10 + test], 0.0, 0.25, 0)


def test_chance_is_the_mean_of_one_over_the_choices() -> None:
    two = replace(question(50), choices=(" a", " b"), answer=0)
    assert divide(questions(8), [question(51), two], 0.0, 0.25, 0).chance == pytest.approx(5 / 12)
