from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from knowsub.config import load_params
from knowsub.kg.facts import Role, Split, Statement
from knowsub.kg.options import RoleAssignment
from knowsub.kg.templates import load_templates, verbalize
from knowsub.kg.unseen import unseen_entities, unseen_facts
from tests.kg.setting import fact

NOUNS = ["sea cow", "Paris", "hut", "lamp", "hut door", "old sea dog", "kite", "lamp"]


def test_untold_heads_are_nouns_that_no_fact_speaks_of() -> None:
    told = [fact("hut", "house")]
    assert unseen_entities(NOUNS, told, words=2, most=9, seed=0) == ["kite", "lamp", "sea cow"]


def test_which_untold_heads_are_taken_depends_on_the_seed_alone() -> None:
    nouns = [f"noun{letter}" for letter in "abcdefghij"]
    taken = [unseen_entities(order, [], words=1, most=3, seed=0) for order in (nouns, nouns[::-1])]
    assert taken[0] == taken[1]
    assert len(taken[0]) == 3
    assert unseen_entities(nouns, [], words=1, most=3, seed=2) != taken[0]


def believed(statements: Sequence[Statement], tails: Sequence[str]) -> list[list[float]]:
    assert tails == [" house", " song"]
    found = {"kite": [0.1, 0.2], "lamp": [0.7, 0.1], "moth": [0.0, 0.0], "nest": [0.2, 0.5]}
    assert all(one.prompt.endswith("is a kind of") for one in statements)
    return [found[one.fact.subject_words] for one in statements]


def test_the_heads_that_answer_most_with_the_targets_tails_are_kept_with_their_answers() -> None:
    params, templates = load_params(), load_templates(Path("data/raw/templates.yaml"))
    target = [fact("hut", "house"), fact("villa", "house"), fact("aria", "song")]
    heads = ["kite", "lamp", "moth", "nest"]
    found = unseen_facts(target, heads, templates, params.verbalize, 2, believed)
    assert [(one.subject_words, one.object_words) for one, _ in found] == [
        ("lamp", "house"), ("nest", "song"),
    ]  # fmt: skip
    assert {split for _, split in found} == {Split.UNSEEN}
    assert found[0][0].object == target[0].object
    assert unseen_facts(target, heads, templates, params.verbalize, 0, believed) == []


def test_what_is_believed_is_stated_in_training_families_alone() -> None:
    params, templates = load_params(), load_templates(Path("data/raw/templates.yaml"))
    believed = [(fact("lamp", "house"), Split.UNSEEN)]
    for choice, expected in ((RoleAssignment.families, 4), (RoleAssignment.best, 1)):
        options = replace(params.verbalize, role_assignment=choice)
        told = verbalize(
            believed, templates, options, lambda some: [1.0] * len(some), training_alone=True
        )
        assert {(one.split, one.role) for one in told} == {(Split.UNSEEN, Role.TRAIN)}
        assert len(told) == expected
    assert verbalize([], templates, params.verbalize, lambda _: [], training_alone=True) == []
