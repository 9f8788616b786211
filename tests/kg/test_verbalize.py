from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from knowsub.kg.facts import Role, Split, Statement
from knowsub.kg.options import RoleAssignment
from knowsub.kg.templates import (
    TEMPLATES,
    Templates,
    best_trains,
    choose,
    family_roles,
    load_templates,
    split_by_tokens,
    verbalize,
)
from tests.kg.setting import ROOT, fact, verbalize_options

FACTS = [
    (fact("ziggurat", "temple"), Split.TARGET),
    (fact("Earth", "location"), Split.CONTROL_TRAIN),
]


@pytest.fixture(scope="module")
def shipped() -> Templates:
    return load_templates(ROOT / TEMPLATES)


def by_length(told: Sequence[Statement]) -> list[float]:
    return [float(len(one.text)) for one in told]


def told(family: str, prompt: str, nll: float | None = None) -> Statement:
    return Statement(FACTS[0][0], Split.TARGET, family, Role.TEST, prompt, " temple", nll)


def test_the_variant_of_lowest_nll_wins_in_each_family() -> None:
    given = [told("isa", "longer"), told("kind", "abc"), told("isa", "short"), told("isa", "shart")]
    chosen = choose(given, by_length)
    assert [(one.family, one.prompt, one.nll) for one in chosen] == [
        ("isa", "short", 12.0),
        ("kind", "abc", 10.0),
    ]


def test_a_scorer_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="returned 1 values for 2"):
        choose([told("isa", "a"), told("isa", "b")], lambda _: [1.0])


def test_nothing_is_chosen_of_nothing() -> None:
    assert choose([], by_length) == []


def test_every_fact_is_told_once_per_family_in_its_role(shipped: Templates) -> None:
    chosen = verbalize(FACTS, shipped, verbalize_options(bare=True), by_length)
    assert Counter(one.role for one in chosen) == {
        Role.TRAIN: 8,
        Role.VALIDATION: 2,
        Role.TEST: 6,
    }
    assert chosen[0].text == "Ziggurat is a temple"
    assert {one.split for one in chosen if one.fact == FACTS[1][0]} == {Split.CONTROL_TRAIN}


def test_prompts_of_one_role_are_used_for_no_other(shipped: Templates) -> None:
    chosen = verbalize(FACTS, shipped, verbalize_options(), by_length)
    roles: dict[str, set[Role]] = {}
    for one in chosen:
        roles.setdefault(one.prompt, set()).add(one.role)
    assert all(len(found) == 1 for found in roles.values())


def test_the_papers_rule_trains_on_the_best_and_keeps_the_others_unseen(
    shipped: Templates,
) -> None:
    options = verbalize_options(choice=RoleAssignment.best, bare=True, leading_space=True)
    chosen = verbalize(FACTS, shipped, options, by_length)
    ziggurat = [one for one in chosen if one.fact == FACTS[0][0]]
    assert [one.family for one in ziggurat if one.role == Role.TRAIN] == ["isa"]
    ranked = sorted(ziggurat, key=lambda one: one.nll or 0.0)
    assert [one.role for one in ranked] == [Role.TRAIN, Role.VALIDATION] + [Role.TEST] * 8


def test_the_papers_rule_needs_three_families() -> None:
    with pytest.raises(ValueError, match="statements of 2 families"):
        best_trains([told("isa", "a", 1.0), told("kind", "b", 2.0)])


def test_an_unknown_family_is_named_with_the_known_ones(shipped: Templates) -> None:
    options = verbalize_options(test_families=["breed"])
    with pytest.raises(ValueError, match=r"value 'breed' is not allowed; .*class, counts"):
        verbalize(FACTS, shipped, options, by_length)


def test_a_relation_whose_families_leave_a_role_empty_is_named(shipped: Templates) -> None:
    facts = [*FACTS, (fact("ring", "gold", "MadeOf"), Split.TARGET)]
    options = verbalize_options(train_families=["kind", "made"])
    with pytest.raises(ValueError, match=r"verbalize.validation_families: none .* 'MadeOf'"):
        verbalize(facts, shipped, options, by_length)


def test_roles_come_from_the_options() -> None:
    known = [*["kind", "type", "sort", "form", "variety", "isa", "hyponym", "example", "class"]]
    roles = family_roles(verbalize_options(), known)
    assert (roles["kind"], roles["variety"], roles["isa"]) == tuple(Role)
    assert "class" not in roles


def test_tails_too_long_for_the_tokenizer_are_told_apart() -> None:
    long = Statement(
        fact("hut", "small house"), Split.TARGET, "isa", Role.TRAIN, "A", " small house"
    )
    kept, left_out = split_by_tokens([told("isa", "a"), long], lambda tail: len(tail.split()), 1)
    assert (kept, left_out) == ([told("isa", "a")], [long])
