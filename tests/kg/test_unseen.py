from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from knowsub.config import load_params
from knowsub.kg.facts import Role, Split, Statement
from knowsub.kg.options import RoleAssignment
from knowsub.kg.templates import load_templates
from knowsub.kg.unseen import unseen_entities, unseen_facts
from knowsub.kg.verbalize import verbalize
from tests.kg.setting import fact, options

NOUNS = ["sea cow", "Paris", "hut", "lamp", "hut door", "old sea dog", "kite", "lamp"]


def test_unseen_entities_are_nouns_that_no_fact_speaks_of() -> None:
    facts = [fact("hut", "house")]
    assert unseen_entities(NOUNS, facts, options(unseen_entities=9)) == ["kite", "lamp", "sea cow"]


def test_which_unseen_entities_are_taken_depends_on_the_seed_alone() -> None:
    nouns = [f"noun{letter}" for letter in "abcdefghij"]
    few = options(max_subject_words=1, unseen_entities=3)
    taken = [unseen_entities(order, [], few) for order in (nouns, nouns[::-1])]
    assert taken[0] == taken[1]
    assert len(taken[0]) == 3
    assert unseen_entities(nouns, [], replace(few, seed=2)) != taken[0]


def predict(statements: Sequence[Statement], objects: Sequence[str]) -> list[list[float]]:
    assert objects == [" house", " song"]
    probabilities = {"kite": [0.1, 0.2], "lamp": [0.7, 0.1], "moth": [0.0, 0.0], "nest": [0.2, 0.5]}
    assert all(each.prompt.endswith("is a kind of") for each in statements)
    return [probabilities[each.fact.subject_words] for each in statements]


def test_the_entities_likeliest_to_get_the_targets_objects_are_kept_with_them() -> None:
    params, templates = load_params(), load_templates(Path("data/raw/templates.yaml"))
    target = [fact("hut", "house"), fact("villa", "house"), fact("aria", "song")]
    entities = ["kite", "lamp", "moth", "nest"]
    unseen = unseen_facts(target, entities, templates, params.verbalize, 2, predict)
    assert [(each.subject_words, each.object_words) for each, _ in unseen] == [
        ("lamp", "house"), ("nest", "song"),
    ]  # fmt: skip
    assert {split for _, split in unseen} == {Split.UNSEEN}
    assert unseen[0][0].object == target[0].object
    assert unseen_facts(target, entities, templates, params.verbalize, 0, predict) == []


def test_a_relation_of_names_has_no_unseen_entities() -> None:
    params, templates = load_params(), load_templates(Path("data/raw/templates.yaml"))
    named = [fact("Paris", "house"), fact("Oslo", "house"), fact("villa", "house")]
    assert unseen_facts(named, ["kite"], templates, params.verbalize, 2, predict) == []


def test_unseen_facts_are_stated_in_training_families_alone() -> None:
    params, templates = load_params(), load_templates(Path("data/raw/templates.yaml"))
    unseen = [(fact("lamp", "house"), Split.UNSEEN)]
    for assignment, expected in ((RoleAssignment.families, 4), (RoleAssignment.best, 1)):
        changed = replace(params.verbalize, role_assignment=assignment)
        statements = verbalize(
            unseen, templates, changed, lambda wordings: [1.0] * len(wordings), training_only=True
        )
        assert {(each.split, each.role) for each in statements} == {(Split.UNSEEN, Role.TRAIN)}
        assert len(statements) == expected
    assert verbalize([], templates, params.verbalize, lambda _: [], training_only=True) == []
