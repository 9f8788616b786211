from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowsub.kg.facts import Fact, fact_words
from knowsub.kg.options import OverlapPolicy
from knowsub.kg.overlap import OverlapKind, check_targets, find_overlaps, separate
from tests.kg.setting import fact

HOUSE = Fact(
    "house.n.01", "hypernym", "building.n.01", subject_words="house", object_words="building"
)

TOUCHING = [
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


@pytest.mark.parametrize(("control", "kind"), TOUCHING)
def test_each_kind_of_overlap_is_found(control: Fact, kind: OverlapKind) -> None:
    (overlap,) = find_overlaps([HOUSE], [APART, control])
    assert (overlap.kind, overlap.control, overlap.target) == (kind, control, HOUSE)


@pytest.mark.parametrize("control", [control for control, _ in TOUCHING])
def test_refused_overlap_names_the_facts(control: Fact) -> None:
    with pytest.raises(ValueError, match=r"1 control facts touch") as error:
        separate([HOUSE], [APART, control], OverlapPolicy.refuse)
    assert control.key in str(error.value)
    assert HOUSE.key in str(error.value)


def test_filtered_overlap_is_dropped_and_counted() -> None:
    parts = separate([HOUSE], [APART, *(control for control, _ in TOUCHING)], OverlapPolicy.filter)
    assert parts.kept == (APART,)
    assert parts.counts == {
        "shares the same fact with a target": 1,
        "shares the same statement with a target": 1,
        "shares the same head or tail with a target": 1,
        "shares a surface word with a target": 2,
    }


def test_no_overlap_passes_both_rules() -> None:
    for rule in OverlapPolicy:
        assert separate([HOUSE], [APART], rule).kept == (APART,)


@pytest.mark.parametrize(
    ("rule", "message"), [(OverlapPolicy.refuse, "touch"), (OverlapPolicy.filter, "no control")]
)
def test_a_target_equal_to_its_control_is_refused(rule: OverlapPolicy, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        separate([HOUSE, APART], [HOUSE, APART], rule)


@pytest.mark.parametrize(("few", "message"), [([], "no fact"), ([HOUSE], "one fact")])
def test_a_target_needs_two_facts(few: list[Fact], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_targets({"building.n.01": few})


@settings(deadline=None)
@given(facts, facts)
def test_what_is_left_shares_no_word_and_no_name(target: list[Fact], control: list[Fact]) -> None:
    dropped = {overlap.control for overlap in find_overlaps(target, control)}
    taken = frozenset[str]().union(*map(fact_words, target))
    for one in control:
        assert (one in dropped) == bool(fact_words(one) & taken)
