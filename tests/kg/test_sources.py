from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import pytest

from knowsub.kg.build import FactSplits, build_kg, check_splits, find_overlaps
from knowsub.kg.facts import fact_words, leaks_answer, word_list, write_facts, write_kg
from knowsub.kg.sources import unusable, wordnet_facts
from knowsub.kg.wordnet import WordNet, load
from tests.kg.setting import (
    NOUN_ROWS,
    SEVEN,
    fact,
    options,
    real_wordnet,
    write_nouns,
)

FACTS_HASH = "bc464ba0109bbf6ccaa86689425132db8fb046ebabc1478fa2f4f9d86b7e2046"
"""Of the default facts: a change of it is a change of every result."""


@pytest.fixture(scope="module")
def nouns() -> WordNet:
    return real_wordnet()


@pytest.fixture(scope="module")
def splits(nouns: WordNet) -> FactSplits:
    return wordnet_facts(nouns, SEVEN[:1], options())


@pytest.fixture
def small(tmp_path: Path) -> WordNet:
    songs = ["aria", "ballad", "carol", "dirge", "elegy", "fugue", "gavotte"]
    trees = ["alder", "birch", "cedar", "dogwood", "elm", "fir", "gum", "hazel", "ivy", "juniper"]
    rows = [f"{name}.n.01|{name}|1|song.n.01|" for name in songs]
    rows += [f"{name}.n.01|{name}|1|tree.n.01|" for name in trees]
    rows += [f"{kind}.n.01|{kind}|5|entity.n.01|" for kind in ("song", "tree")]
    return load(write_nouns(tmp_path / "nouns.tsv.gz", "\n".join([NOUN_ROWS, *rows])))


def test_every_target_gets_all_the_facts_asked_for(splits: FactSplits) -> None:
    assert {name: len(facts) for name, facts in splits.targets.items()} == dict.fromkeys(SEVEN, 40)
    assert {name: len(facts) for name, facts in splits.neighborhood.items()} == dict.fromkeys(
        SEVEN, 60
    )
    assert len(splits.control) == 1185


def test_no_object_takes_more_than_its_share_of_a_target(splits: FactSplits) -> None:
    for facts in splits.targets.values():
        assert max(Counter(fact.object_words for fact in facts).values()) <= 12


def test_a_subject_names_one_fact_of_all(splits: FactSplits) -> None:
    subjects = Counter(fact.subject_words.lower() for fact in splits.facts)
    assert [words for words, count in subjects.items() if count > 1] == []


def test_no_prompt_spells_its_answer_and_words_are_few(splits: FactSplits) -> None:
    for each in splits.facts:
        assert not leaks_answer(each)
        assert len(word_list(each.subject_words)) <= 2
        assert len(word_list(each.object_words)) == 1


def test_control_shares_nothing_with_any_target(splits: FactSplits) -> None:
    targets = [fact for facts in splits.targets.values() for fact in facts]
    assert find_overlaps(targets, splits.control) == []
    check_splits(splits)


def test_control_has_several_subjects_per_object(splits: FactSplits) -> None:
    counts = Counter(fact.object_words for fact in splits.control)
    assert sorted(set(counts.values())) in ([1, 8], [8])


def test_neighborhood_facts_share_a_word_with_their_target_and_belong_to_none(
    splits: FactSplits,
) -> None:
    targets = {fact for facts in splits.targets.values() for fact in facts}
    for name, neighborhood in splits.neighborhood.items():
        words = frozenset[str]().union(*map(fact_words, splits.targets[name]))
        assert all(fact_words(fact) & words for fact in neighborhood)
        assert not targets & set(neighborhood)
        assert not set(splits.control) & set(neighborhood)


def test_one_target_more_leaves_the_files_of_the_others_as_they_are(
    nouns: WordNet, splits: FactSplits, tmp_path: Path
) -> None:
    again = wordnet_facts(nouns, [*SEVEN[:1], "location.n.01"], options())
    assert again == splits
    for folder, facts in (("one", splits), ("two", again)):
        write_kg(tmp_path / folder / "kg.jsonl", build_kg(facts, SEVEN[0], 0.1, 0.2, 0))
        write_facts(tmp_path / folder / "facts.jsonl", facts.facts)
    for name in ("kg.jsonl", "facts.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_default_target_is_the_same_on_every_machine(splits: FactSplits) -> None:
    text = "\n".join(fact.key for fact in splits.facts)
    assert hashlib.sha256(text.encode()).hexdigest() == FACTS_HASH


def test_a_new_target_joins_the_others(small: WordNet) -> None:
    few = options(extra_targets=["building.n.01"], control_facts=10, facts_per_object=10)
    splits = wordnet_facts(small, ["song.n.01"], few)
    assert set(splits.targets) == {"building.n.01", "song.n.01"}
    assert {fact.object_words for fact in splits.control} == {"tree"}
    check_splits(splits)


def test_every_fact_of_a_neighborhood_is_accounted_for(nouns: WordNet, splits: FactSplits) -> None:
    for name in SEVEN:
        counts = {key: n for key, n in splits.counts[name].items() if key != "neighborhood"}
        assert sum(counts.values()) == len(nouns.neighborhood(name, 3))


def test_the_commoner_sense_wins_a_contradiction(small: WordNet) -> None:
    few = options(extra_targets=[], control_facts=10, facts_per_object=5, target_facts=9)
    splits = wordnet_facts(small, ["building.n.01"], few)
    senses = [fact.subject for fact in splits.facts if fact.subject_words == "house"]
    assert senses == ["house.n.01"]


def test_the_closest_facts_come_first(small: WordNet) -> None:
    few = options(
        extra_targets=[], control_facts=10, facts_per_object=5, target_facts=3, max_object_share=1.0
    )
    facts = wordnet_facts(small, ["building.n.01"], few).targets["building.n.01"]
    around = small.neighborhood("building.n.01", 3)
    assert [around[fact] for fact in facts] == [0, 0, 0]
    assert [fact.subject_words for fact in facts] == ["house", "building", "school"]


def test_objects_are_spread_only_where_there_are_others(small: WordNet) -> None:
    few = options(
        extra_targets=[], control_facts=10, facts_per_object=5, target_facts=4, max_object_share=0.3
    )
    facts = wordnet_facts(small, ["building.n.01"], few).targets["building.n.01"]
    assert [fact.object_words for fact in facts][:2] == ["building", "place"]
    assert len(facts) == 4


def test_too_few_control_facts_are_refused(small: WordNet) -> None:
    with pytest.raises(ValueError, match=r"prepare.control_facts: value 1185 .* 5 per object"):
        wordnet_facts(small, ["building.n.01"], options(extra_targets=[], facts_per_object=5))


def test_an_unknown_target_is_refused(small: WordNet) -> None:
    with pytest.raises(ValueError, match=r"'castle.n.01' is not a noun synset"):
        wordnet_facts(small, ["castle.n.01"], options(extra_targets=[]))


def test_a_target_of_one_fact_is_refused(small: WordNet) -> None:
    few = options(extra_targets=[], hypernym_levels=1, control_facts=10, facts_per_object=5)
    with pytest.raises(ValueError, match=r"'ziggurat.n.01' has one fact"):
        wordnet_facts(small, ["ziggurat.n.01"], few)


@pytest.mark.parametrize(
    ("subject", "answer", "reason"),
    [
        ("old stone house", "dwelling", "subject has more than 2 words"),
        ("man-of-war", "ship", "subject has more than 2 words"),
        ("hut", "small house", "object has more than 1 words"),
        ("farmhouse", "house", "leaks the other"),
    ],
)
def test_unusable_facts_have_a_reason(subject: str, answer: str, reason: str) -> None:
    assert reason in str(unusable(fact(subject, answer), options()))
    assert unusable(fact("hut", "dwelling"), options()) is None
