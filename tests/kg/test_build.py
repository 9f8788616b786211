from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowsub.kg.build import (
    FactSplits,
    OverlapKind,
    build_kg,
    check_splits,
    check_targets,
    divide_control,
    facts_sharing_words,
    find_overlaps,
    hash_order,
    neighborhood_facts,
    separate,
)
from knowsub.kg.facts import Fact, Split, fact_words
from knowsub.kg.options import OverlapPolicy
from tests.kg.setting import fact

TARGETS = {
    "house": (fact("hut", "house"), fact("villa", "house")),
    "song": (fact("aria", "song"), fact("carol", "song")),
}
NEIGHBORHOOD = {
    "house": tuple(fact(subject, "house") for subject in ("igloo", "cabin", "chalet")),
    "song": (fact("dirge", "song"),),
}
CONTROL = tuple(fact(f"head{number}", f"tail{number % 5}") for number in range(40))
"""The order of control facts is a hash of these names: others are divided otherwise."""
FACTS = FactSplits(TARGETS, NEIGHBORHOOD, CONTROL, {})
SPLITS = (Split.CONTROL_TRAIN, Split.CONTROL_VALIDATION, Split.CONTROL_HELDOUT)


def kg(given: FactSplits, target: str = "house", seed: int = 0) -> dict[Split, set[Fact]]:
    parts: dict[Split, set[Fact]] = {split: set() for split in Split}
    for each, split in build_kg(given, target, 0.1, 0.2, seed):
        parts[split].add(each)
    return parts


def test_each_fact_plays_one_part() -> None:
    rows = build_kg(FACTS, "house", 0.1, 0.2, 0)
    assert len({fact for fact, _ in rows}) == len(rows) == 2 + 3 + 40


def test_control_is_divided_by_its_shares() -> None:
    parts = kg(FACTS)
    assert [len(parts[split]) for split in SPLITS] == [28, 4, 8]


def test_control_is_divided_alike_for_every_target() -> None:
    house, song = kg(FACTS), kg(FACTS, "song")
    assert all(house[split] == song[split] for split in SPLITS)


def test_another_seed_divides_otherwise() -> None:
    assert kg(FACTS)[Split.CONTROL_HELDOUT] != kg(FACTS, seed=1)[Split.CONTROL_HELDOUT]


def test_neighborhood_facts_are_divided_as_control_facts_are_and_within_each_object() -> None:
    neighborhood = tuple(Fact(f"{t}{i}.n.01", "hypernym", f"{t}.n.01", f"{t}{i}", t)
                         for t in ("barn", "hut") for i in range(10))  # fmt: skip
    parts = kg(replace(FACTS, neighborhood={"house": neighborhood, "song": ()}))
    assert [
        len(parts[split]) for split in (Split.NEIGHBORHOOD_TRAIN, Split.NEIGHBORHOOD_HELDOUT)
    ] == [16, 4]
    held = sorted(each.object_words for each in parts[Split.NEIGHBORHOOD_HELDOUT])
    assert held == ["barn", "barn", "hut", "hut"]


def test_the_order_of_the_input_does_not_matter() -> None:
    reversed_facts = replace(
        FACTS,
        control=CONTROL[::-1],
        neighborhood={"house": NEIGHBORHOOD["house"][::-1], "song": ()},
    )
    assert build_kg(reversed_facts, "house", 0.1, 0.2, 0) == build_kg(FACTS, "house", 0.1, 0.2, 0)


def test_the_division_is_the_same_on_every_machine() -> None:
    heldout = sorted(fact.subject for fact in kg(FACTS)[Split.CONTROL_HELDOUT])
    assert heldout == ["head14", "head19", "head26", "head3", "head30", "head39", "head7", "head9"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            replace(FACTS, control=(*CONTROL, TARGETS["song"][0])),
            "control facts overlap with a target",
        ),
        (
            replace(FACTS, control=(*CONTROL, fact("hut", "x"))),
            "control facts overlap with a target",
        ),
        (
            replace(FACTS, neighborhood={"house": TARGETS["song"]}),
            "neighborhood facts of 'house' are target",
        ),
        (
            replace(FACTS, neighborhood={"house": CONTROL[:1]}),
            "neighborhood facts of 'house' are target",
        ),
        (replace(FACTS, targets={**TARGETS, "b": TARGETS["song"]}), "hold the same facts"),
    ],
)
def test_facts_that_leak_are_refused(given: FactSplits, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_splits(given)
    with pytest.raises(ValueError, match=message):
        build_kg(given, "house", 0.1, 0.2, 0)


@pytest.mark.parametrize(("facts", "message"), [((), "no fact"), (TARGETS["song"][:1], "one fact")])
def test_a_target_needs_two_facts(facts: tuple[Fact, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_kg(replace(FACTS, targets={"house": facts}), "house", 0.1, 0.2, 0)


def test_an_unknown_target_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'home' is not one of \['house', 'song'\]"):
        build_kg(FACTS, "home", 0.1, 0.2, 0)


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
    facts = [fact(f"subject{number}", "object") for number in range(count)]
    parts = divide_control(facts, validation, heldout, seed)
    assert all(parts.values())
    assert sorted(each.key for part in parts.values() for each in part) == sorted(
        each.key for each in facts
    )


@settings(deadline=None)
@given(st.lists(st.integers(0, 999), unique=True, min_size=1), st.integers(0, 9))
def test_one_fact_more_leaves_the_order_of_the_others(numbers: list[int], seed: int) -> None:
    facts = [fact(str(number), "object") for number in numbers]
    rest = hash_order(facts[1:], seed, "salt")
    assert [each for each in hash_order(facts, seed, "salt") if each != facts[0]] == rest


def test_all_facts_come_once_and_sorted() -> None:
    keys = [fact.key for fact in FACTS.facts]
    assert keys == sorted(set(keys))
    assert len(keys) == 2 + 2 + 3 + 1 + 40


TARGET = [fact("hut", "house"), fact("igloo", "house"), fact("house", "building")]
SAME_OBJECT = [fact("villa", "house"), fact("cabin", "house"), fact("tower", "building")]
SUBJECT_AS_OBJECT = fact("yurt", "hut")
SAME_SUBJECT = fact("hut", "shelter")
OTHER = fact("hut ring", "settlement")
APART = fact("aria", "song")
POOL = [APART, OTHER, SAME_SUBJECT, SUBJECT_AS_OBJECT, *SAME_OBJECT]


def test_facts_of_the_same_object_come_first_and_evenly() -> None:
    neighborhood = neighborhood_facts(TARGET, POOL, 9, unique_subjects=False)
    assert neighborhood[:3] == (SAME_OBJECT[2], SAME_OBJECT[0], SAME_OBJECT[1])
    assert neighborhood[3:] == (SUBJECT_AS_OBJECT, SAME_SUBJECT, OTHER)


def test_subjects_of_the_target_can_be_kept_out() -> None:
    assert SAME_SUBJECT not in neighborhood_facts(TARGET, POOL, 9, unique_subjects=True)


def test_no_more_than_asked_for() -> None:
    assert neighborhood_facts(TARGET, POOL, 2, unique_subjects=True) == (
        SAME_OBJECT[2],
        SAME_OBJECT[0],
    )
    assert neighborhood_facts(TARGET, POOL, 0, unique_subjects=True) == ()


def test_facts_that_share_no_word_are_no_neighbors() -> None:
    assert facts_sharing_words(TARGET, POOL) == POOL[1:]


HOUSE = Fact(
    "house.n.01", "hypernym", "building.n.01", subject_words="house", object_words="building"
)

OVERLAPPING = [
    (HOUSE, OverlapKind.FACT),
    (replace(HOUSE, subject="house.n.12", object="building.n.04"), OverlapKind.STATEMENT),
    (
        replace(HOUSE, subject="hut.n.01", subject_words="hut", object_words="edifice"),
        OverlapKind.SYNSET,
    ),
    (fact("play", "house"), OverlapKind.WORD),
    (fact("building site", "place"), OverlapKind.WORD),
]
APART = fact("ziggurat", "temple")

words = st.sampled_from(["ant", "bee", "cat", "dog", "elk", "fly of prey", "gnat", "red ant"])
facts = st.lists(st.builds(fact, words, words), max_size=6)


@pytest.mark.parametrize(("control", "kind"), OVERLAPPING)
def test_each_kind_of_overlap_is_found(control: Fact, kind: OverlapKind) -> None:
    (overlap,) = find_overlaps([HOUSE], [APART, control])
    assert (overlap.kind, overlap.control, overlap.target) == (kind, control, HOUSE)


@pytest.mark.parametrize("control", [control for control, _ in OVERLAPPING])
def test_refused_overlap_names_the_facts(control: Fact) -> None:
    with pytest.raises(ValueError, match=r"1 control facts overlap") as error:
        separate([HOUSE], [APART, control], OverlapPolicy.refuse)
    assert control.key in str(error.value)
    assert HOUSE.key in str(error.value)


def test_filtered_overlap_is_dropped_and_counted() -> None:
    separation = separate(
        [HOUSE], [APART, *(control for control, _ in OVERLAPPING)], OverlapPolicy.filter
    )
    assert separation.kept == (APART,)
    assert separation.counts == {
        "shares the same fact with a target": 1,
        "shares the same statement with a target": 1,
        "shares the same subject or object with a target": 1,
        "shares a surface word with a target": 2,
    }


def test_no_overlap_passes_both_policies() -> None:
    for policy in OverlapPolicy:
        assert separate([HOUSE], [APART], policy).kept == (APART,)


@pytest.mark.parametrize(
    ("policy", "message"),
    [(OverlapPolicy.refuse, "overlap"), (OverlapPolicy.filter, "none is left")],
)
def test_a_target_equal_to_its_control_is_refused(policy: OverlapPolicy, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        separate([HOUSE, APART], [HOUSE, APART], policy)


@pytest.mark.parametrize(("few", "message"), [([], "no fact"), ([HOUSE], "one fact")])
def test_targets_need_two_facts_each(few: list[Fact], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_targets({"building.n.01": few})


@settings(deadline=None)
@given(facts, facts)
def test_what_is_left_shares_no_word_and_no_name(target: list[Fact], control: list[Fact]) -> None:
    dropped = {overlap.control for overlap in find_overlaps(target, control)}
    taken = frozenset[str]().union(*map(fact_words, target))
    for each in control:
        assert (each in dropped) == bool(fact_words(each) & taken)
