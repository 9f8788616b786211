from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowsub.kg.build import FactSplits, build_kg, check_splits, divide_control, hash_order
from knowsub.kg.facts import Fact, Split
from tests.kg.setting import fact

TARGETS = {
    "house": (fact("hut", "house"), fact("villa", "house")),
    "song": (fact("aria", "song"), fact("carol", "song")),
}
NEAR = {
    "house": tuple(fact(head, "house") for head in ("igloo", "cabin", "chalet")),
    "song": (fact("dirge", "song"),),
}
CONTROL = tuple(fact(f"head{number}", f"tail{number % 5}") for number in range(40))
WORLD = FactSplits(TARGETS, NEAR, CONTROL, {})
SPLITS = (Split.CONTROL_TRAIN, Split.CONTROL_VALIDATION, Split.CONTROL_HELDOUT)


def kg(world: FactSplits, target: str = "house", seed: int = 0) -> dict[Split, set[Fact]]:
    parts: dict[Split, set[Fact]] = {split: set() for split in Split}
    for one, split in build_kg(world, target, 0.1, 0.2, seed):
        parts[split].add(one)
    return parts


def test_each_fact_plays_one_part() -> None:
    rows = build_kg(WORLD, "house", 0.1, 0.2, 0)
    assert len({fact for fact, _ in rows}) == len(rows) == 2 + 3 + 40


def test_control_is_divided_by_its_shares() -> None:
    parts = kg(WORLD)
    assert [len(parts[split]) for split in SPLITS] == [28, 4, 8]


def test_control_is_divided_alike_for_every_target() -> None:
    house, song = kg(WORLD), kg(WORLD, "song")
    assert all(house[split] == song[split] for split in SPLITS)


def test_another_seed_divides_otherwise() -> None:
    assert kg(WORLD)[Split.CONTROL_HELDOUT] != kg(WORLD, seed=1)[Split.CONTROL_HELDOUT]


def test_near_facts_are_divided_as_the_control_facts_are_and_within_each_tail() -> None:
    near = tuple(Fact(f"{t}{i}.n.01", "hypernym", f"{t}.n.01", f"{t}{i}", t)
                 for t in ("barn", "hut") for i in range(10))  # fmt: skip
    parts = kg(replace(WORLD, neighborhood={"house": near, "song": ()}))
    assert [
        len(parts[split]) for split in (Split.NEIGHBORHOOD_TRAIN, Split.NEIGHBORHOOD_HELDOUT)
    ] == [16, 4]
    held = sorted(one.object_words for one in parts[Split.NEIGHBORHOOD_HELDOUT])
    assert held == ["barn", "barn", "hut", "hut"]


def test_the_order_of_the_input_does_not_matter() -> None:
    turned = replace(
        WORLD, control=CONTROL[::-1], neighborhood={"house": NEAR["house"][::-1], "song": ()}
    )
    assert build_kg(turned, "house", 0.1, 0.2, 0) == build_kg(WORLD, "house", 0.1, 0.2, 0)


def test_the_division_is_the_same_on_every_machine() -> None:
    heldout = sorted(fact.subject for fact in kg(WORLD)[Split.CONTROL_HELDOUT])
    assert heldout == ["head14", "head19", "head26", "head3", "head30", "head39", "head7", "head9"]


@pytest.mark.parametrize(
    ("world", "message"),
    [
        (replace(WORLD, control=(*CONTROL, TARGETS["song"][0])), "control touches a target"),
        (replace(WORLD, control=(*CONTROL, fact("hut", "x"))), "control touches a target"),
        (
            replace(WORLD, neighborhood={"house": TARGETS["song"]}),
            "near facts of 'house' are target",
        ),
        (replace(WORLD, neighborhood={"house": CONTROL[:1]}), "near facts of 'house' are target"),
        (replace(WORLD, targets={**TARGETS, "b": TARGETS["song"]}), "hold the same facts"),
    ],
)
def test_a_world_with_a_leak_is_refused(world: FactSplits, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_splits(world)
    with pytest.raises(ValueError, match=message):
        build_kg(world, "house", 0.1, 0.2, 0)


@pytest.mark.parametrize(("facts", "message"), [((), "no fact"), (TARGETS["song"][:1], "one fact")])
def test_a_target_needs_two_facts(facts: tuple[Fact, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_kg(replace(WORLD, targets={"house": facts}), "house", 0.1, 0.2, 0)


def test_an_unknown_target_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'home' is not one of \['house', 'song'\]"):
        build_kg(WORLD, "home", 0.1, 0.2, 0)


def test_control_too_small_for_three_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="2 control facts leave none to train on"):
        divide_control(CONTROL[:2], 0.1, 0.2, 0)
    with pytest.raises(ValueError, match="after 2 for validation and 2 held out"):
        divide_control(CONTROL[:4], 0.4, 0.4, 0)  # 1.6 of each: rounded, they are all there are


@settings(deadline=None)
@given(st.integers(5, 60), st.floats(0.01, 0.4), st.floats(0.01, 0.4), st.integers(0, 99))
def test_the_parts_of_control_are_a_partition(
    count: int, validation: float, heldout: float, seed: int
) -> None:
    facts = [fact(f"head{number}", "tail") for number in range(count)]
    parts = divide_control(facts, validation, heldout, seed)
    assert all(parts.values())
    assert sorted(one.key for part in parts.values() for one in part) == sorted(
        one.key for one in facts
    )


@settings(deadline=None)
@given(st.lists(st.integers(0, 999), unique=True, min_size=1), st.integers(0, 9))
def test_one_fact_more_leaves_the_order_of_the_others(numbers: list[int], seed: int) -> None:
    facts = [fact(str(number), "tail") for number in numbers]
    rest = hash_order(facts[1:], seed, "salt")
    assert [one for one in hash_order(facts, seed, "salt") if one != facts[0]] == rest


def test_the_facts_of_a_world_come_once_and_sorted() -> None:
    keys = [fact.key for fact in WORLD.facts]
    assert keys == sorted(set(keys))
    assert len(keys) == 2 + 2 + 3 + 1 + 40
