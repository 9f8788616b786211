from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from knowsub.kg.facts import Fact, Role, Split, Statement
from knowsub.kg.known import Scorers, known_facts, state_facts
from knowsub.kg.options import PrepareOptions
from knowsub.kg.templates import Template, Templates
from tests.kg.setting import options, verbalize_options

TEMPLATES: Templates = {
    "capital": (
        Template("kind", ("the capital of {subject} is {object}",)),
        Template("type", ("{subject} has its capital in {object}",)),
        Template("variety", ("the city of {subject} is {object}",)),
        Template("isa", ("the seat of {subject} is {object}",)),
    )
}
OPTIONS = verbalize_options(
    train_families=["kind", "type"], validation_families=["variety"], test_families=["isa"],
    known_max_nll=2.0, known_max_rank=3, known_distractors=9,
)  # fmt: skip
CAPITALS = {"France": "Paris", "Spain": "Madrid", "Italy": "Rome", "Chad": "Oslo", "Peru": "Lima"}


def capital(country: str) -> Fact:
    return Fact(country, "capital", CAPITALS[country], country, CAPITALS[country])


class Model:
    """A model given by what it says: NLL, rank and favourite wrong object of each country."""

    def __init__(self, **answers: tuple[float, int, str]) -> None:
        self.answers, self.asked = answers, list[Statement]()

    def nll(self, statements: Sequence[Statement]) -> list[float]:
        self.asked += statements
        # the second training family is asked in vain: the best one counts
        return [
            self.answers[s.fact.subject][0] + (5.0 if s.family == "type" else 0.0)
            for s in statements
        ]

    def rank(self, statements: Sequence[Statement]) -> list[int]:
        return [self.answers[s.fact.subject][1] for s in statements]

    def predict(self, statements: Sequence[Statement], objects: Sequence[str]) -> list[list[float]]:
        return [
            [
                0.5 if text == s.object else 0.9 if text == f" {self.answers[s.fact.subject][2]}"
                else 0.1
                for text in objects
            ]
            for s in statements
        ]  # fmt: skip

    @property
    def scorers(self) -> Scorers:
        return Scorers(self.nll, self.rank, self.predict)


SURE = (0.5, 0, "")
KG = [
    (capital("France"), Split.TARGET),
    (capital("Spain"), Split.TARGET),
    (capital("Italy"), Split.TARGET),
    *(
        (Fact(f"{split}{n}", "capital", "Lima", f"{split}{n}", "Lima"), split)
        for split in (Split.CONTROL_TRAIN, Split.CONTROL_VALIDATION, Split.CONTROL_HELDOUT)
        for n in range(1)
    ),
]
REST = {
    f"{split}0": SURE
    for split in (Split.CONTROL_TRAIN, Split.CONTROL_VALIDATION, Split.CONTROL_HELDOUT)
}


def asked(size: int) -> PrepareOptions:
    return options(target_facts=size, max_object_share=1.0)


def parts(model: Model, size: int = 10) -> dict[str, str]:
    result = known_facts(KG, TEMPLATES, OPTIONS, model.scorers, asked(size))
    return {fact.subject: split.value for fact, split in result.kg}


@pytest.mark.parametrize(
    "answer", [(2.01, 0, ""), (0.5, 4, ""), (0.5, 0, "Madrid")], ids=["nll", "rank", "choice"]
)
def test_a_fact_is_unknown_if_it_misses_one_of_three_limits(answer: tuple[float, int, str]) -> None:
    model = Model(France=answer, Spain=SURE, Italy=SURE, **REST)
    assert parts(model)["France"] == "target_unknown"
    assert parts(model)["Spain"] == "target"


def test_a_fact_at_both_limits_is_known_by_its_best_training_statement() -> None:
    model = Model(France=(2.0, 3, ""), Spain=SURE, Italy=SURE, **REST)
    assert parts(model)["France"] == "target"
    assert {statement.role for statement in model.asked} == {Role.TRAIN}


def test_the_target_keeps_the_facts_that_are_known_best_and_drops_further_known_ones() -> None:
    model = Model(France=(0.3, 0, ""), Spain=(0.2, 0, ""), Italy=(0.4, 0, ""), **REST)
    kept = parts(model, size=2)
    assert {"France", "Spain"} <= kept.keys()
    assert "Italy" not in kept
    result = known_facts(KG, TEMPLATES, OPTIONS, model.scorers, asked(2))
    assert result.counts["target_known"] == result.counts["target_asked"] == 3
    assert result.summary("europe") == "; europe: 3 of 3 known"


def test_unknown_facts_are_preserved_all_but_reported_beside_as_many_known_ones() -> None:
    model = Model(France=SURE, Spain=SURE, Italy=SURE, **REST)
    parts_of = (Split.CONTROL_TRAIN, Split.CONTROL_HELDOUT)
    model.answers |= {f"{part}{n}": (9.0, 50, "") for part in parts_of for n in range(1, 8)}
    kg = [
        *KG,
        *(
            (Fact(f"{part}{n}", "capital", "Lima", f"{part}{n}", "Lima"), part)
            for part in parts_of
            for n in range(1, 8)
        ),
    ]
    result = known_facts(kg, TEMPLATES, OPTIONS, model.scorers, asked(10))
    splits = [split for _, split in result.kg]
    assert (result.counts["control_known"], result.counts["control_asked"]) == (3, 17)
    assert splits.count(Split.CONTROL_TRAIN_UNKNOWN) == 7
    assert splits.count(Split.CONTROL_UNKNOWN) == 2


def test_without_a_limit_every_fact_stays_where_it_was_and_no_model_is_asked() -> None:
    model = Model()
    result = known_facts(
        KG, TEMPLATES, replace(OPTIONS, known_max_nll=0.0), model.scorers, asked(2)
    )
    assert result.kg == KG
    assert result.counts == {}
    assert result.summary("europe") == ""


def test_a_model_that_knows_one_target_fact_is_refused_in_a_line_with_the_parameter() -> None:
    model = Model(France=SURE, Spain=(9.0, 9, ""), Italy=(9.0, 9, ""), **REST)
    with pytest.raises(ValueError, match=r"known_max_nll: value 2\.0 .* knows 1 facts of 'target'"):
        parts(model)


def test_control_facts_are_stated_in_training_families_alone() -> None:
    model = Model(France=SURE, Spain=SURE, Italy=SURE, **REST)
    stated = state_facts(KG, TEMPLATES, OPTIONS, model.nll)
    roles = {(s.split is Split.TARGET): set[Role]() for s in stated}
    for statement in stated:
        roles[statement.split is Split.TARGET].add(statement.role)
    assert roles == {True: set(Role), False: {Role.TRAIN}}


def test_families_that_only_control_facts_have_may_be_named() -> None:
    templates = {**TEMPLATES, "hypernym": (Template("sort", ("{subject} is a {object}",)),)}
    named = replace(OPTIONS, train_families=["kind", "type", "sort"])
    kg = [*KG, (Fact("oak", "hypernym", "tree", "oak", "tree"), Split.CONTROL_TRAIN)]
    model = Model(France=SURE, Spain=SURE, Italy=SURE, oak=SURE, **REST)
    stated = state_facts(kg, templates, named, model.nll)
    assert {s.family for s in stated if s.fact.subject == "oak"} == {"sort"}
