from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import pytest

from knowsub.kg.build import FactSplits, build_kg, check_splits
from knowsub.kg.facts import fact_words, leaks_answer, word_list, write_facts, write_kg
from knowsub.kg.overlap import find_overlaps
from knowsub.kg.wordnet import WordNet, load
from knowsub.kg.wordnet_facts import unusable, wordnet_facts
from tests.kg.setting import NOUN_ROWS, SEVEN, fact, options, real_wordnet, write_nouns

WORLD_HASH = "bc464ba0109bbf6ccaa86689425132db8fb046ebabc1478fa2f4f9d86b7e2046"
"""Of the facts of the default world: a change of it is a change of every result."""


@pytest.fixture(scope="module")
def nouns() -> WordNet:
    return real_wordnet()


@pytest.fixture(scope="module")
def world(nouns: WordNet) -> FactSplits:
    return wordnet_facts(nouns, SEVEN[:1], options())


@pytest.fixture
def small(tmp_path: Path) -> WordNet:
    songs = ["aria", "ballad", "carol", "dirge", "elegy", "fugue", "gavotte"]
    trees = ["alder", "birch", "cedar", "dogwood", "elm", "fir", "gum", "hazel", "ivy", "juniper"]
    rows = [f"{name}.n.01|{name}|1|song.n.01|" for name in songs]
    rows += [f"{name}.n.01|{name}|1|tree.n.01|" for name in trees]
    rows += [f"{kind}.n.01|{kind}|5|entity.n.01|" for kind in ("song", "tree")]
    return load(write_nouns(tmp_path / "nouns.tsv.gz", "\n".join([NOUN_ROWS, *rows])))


def test_every_taught_target_gets_all_the_facts_asked_for(world: FactSplits) -> None:
    assert {name: len(facts) for name, facts in world.targets.items()} == dict.fromkeys(SEVEN, 40)
    assert {name: len(facts) for name, facts in world.neighborhood.items()} == dict.fromkeys(
        SEVEN, 60
    )
    assert len(world.control) == 1185


def test_no_tail_takes_more_than_its_share_of_a_target(world: FactSplits) -> None:
    for facts in world.targets.values():
        assert max(Counter(fact.object_words for fact in facts).values()) <= 12


def test_a_head_names_one_fact_in_the_whole_world(world: FactSplits) -> None:
    heads = Counter(fact.subject_words.lower() for fact in world.facts)
    assert [head for head, count in heads.items() if count > 1] == []


def test_no_prompt_spells_its_answer_and_words_are_few(world: FactSplits) -> None:
    for one in world.facts:
        assert not leaks_answer(one)
        assert len(word_list(one.subject_words)) <= 2
        assert len(word_list(one.object_words)) == 1


def test_control_shares_nothing_with_any_target(world: FactSplits) -> None:
    targets = [fact for facts in world.targets.values() for fact in facts]
    assert find_overlaps(targets, world.control) == []
    check_splits(world)


def test_control_has_several_heads_per_tail(world: FactSplits) -> None:
    counts = Counter(fact.object_words for fact in world.control)
    assert sorted(set(counts.values())) in ([1, 8], [8])


def test_near_facts_share_a_word_with_their_target_and_belong_to_none(world: FactSplits) -> None:
    targets = {fact for facts in world.targets.values() for fact in facts}
    for name, near in world.neighborhood.items():
        words = frozenset[str]().union(*map(fact_words, world.targets[name]))
        assert all(fact_words(fact) & words for fact in near)
        assert not targets & set(near)
        assert not set(world.control) & set(near)


def test_one_target_more_leaves_the_files_of_the_others_as_they_are(
    nouns: WordNet, world: FactSplits, tmp_path: Path
) -> None:
    again = wordnet_facts(nouns, [*SEVEN[:1], "location.n.01"], options())
    assert again == world
    for folder, known in (("one", world), ("two", again)):
        write_kg(tmp_path / folder / "kg.jsonl", build_kg(known, SEVEN[0], 0.1, 0.2, 0))
        write_facts(tmp_path / folder / "facts.jsonl", known.facts)
    for name in ("kg.jsonl", "facts.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_default_target_is_the_same_on_every_machine(world: FactSplits) -> None:
    text = "\n".join(fact.key for fact in world.facts)
    assert hashlib.sha256(text.encode()).hexdigest() == WORLD_HASH


def test_a_new_target_is_taught_too(small: WordNet) -> None:
    few = options(taught=["building.n.01"], control_facts=10, facts_per_object=10)
    world = wordnet_facts(small, ["song.n.01"], few)
    assert set(world.targets) == {"building.n.01", "song.n.01"}
    assert {fact.object_words for fact in world.control} == {"tree"}
    check_splits(world)


def test_every_fact_of_a_neighbourhood_is_accounted_for(nouns: WordNet, world: FactSplits) -> None:
    for name in SEVEN:
        counts = {key: n for key, n in world.counts[name].items() if key != "near"}
        assert sum(counts.values()) == len(nouns.neighbourhood(name, 3))


def test_the_commoner_sense_wins_a_contradiction(small: WordNet) -> None:
    few = options(taught=[], control_facts=10, facts_per_object=5, target_facts=9)
    world = wordnet_facts(small, ["building.n.01"], few)
    senses = [fact.subject for fact in world.facts if fact.subject_words == "house"]
    assert senses == ["house.n.01"]


def test_the_closest_facts_come_first(small: WordNet) -> None:
    few = options(
        taught=[], control_facts=10, facts_per_object=5, target_facts=3, max_object_share=1.0
    )
    facts = wordnet_facts(small, ["building.n.01"], few).targets["building.n.01"]
    around = small.neighbourhood("building.n.01", 3)
    assert [around[fact] for fact in facts] == [0, 0, 0]
    assert [fact.subject_words for fact in facts] == ["house", "building", "school"]


def test_tails_are_spread_only_where_there_are_others(small: WordNet) -> None:
    few = options(
        taught=[], control_facts=10, facts_per_object=5, target_facts=4, max_object_share=0.3
    )
    facts = wordnet_facts(small, ["building.n.01"], few).targets["building.n.01"]
    assert [fact.object_words for fact in facts][:2] == ["building", "place"]
    assert len(facts) == 4


def test_too_few_control_facts_are_refused(small: WordNet) -> None:
    with pytest.raises(ValueError, match=r"prepare.control_facts: value 1185 .* 5 per tail"):
        wordnet_facts(small, ["building.n.01"], options(taught=[], facts_per_object=5))


def test_an_unknown_target_is_refused(small: WordNet) -> None:
    with pytest.raises(ValueError, match=r"'castle.n.01' is not a noun synset"):
        wordnet_facts(small, ["castle.n.01"], options(taught=[]))


def test_a_target_of_one_fact_is_refused(small: WordNet) -> None:
    few = options(taught=[], hypernym_levels=1, control_facts=10, facts_per_object=5)
    with pytest.raises(ValueError, match=r"'ziggurat.n.01' has one fact"):
        wordnet_facts(small, ["ziggurat.n.01"], few)


@pytest.mark.parametrize(
    ("head", "tail", "reason"),
    [
        ("old stone house", "dwelling", "head has more than 2 words"),
        ("man-of-war", "ship", "head has more than 2 words"),
        ("hut", "small house", "tail has more than 1 words"),
        ("farmhouse", "house", "gives the other away"),
    ],
)
def test_unusable_facts_are_told_with_a_reason(head: str, tail: str, reason: str) -> None:
    assert reason in str(unusable(fact(head, tail), options()))
    assert unusable(fact("hut", "dwelling"), options()) is None
