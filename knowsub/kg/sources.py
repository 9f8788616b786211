"""Where `prepare` takes its facts from: WordNet, or a folder of files (`folders.py`).

Targets, neighborhood and control are chosen for all targets together, whichever are asked for.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

from knowsub.kg import wordnet
from knowsub.kg.build import (
    FactSplits,
    build_kg,
    check_targets,
    facts_sharing_words,
    hash_rank,
    neighborhood_facts,
)
from knowsub.kg.facts import Fact, Split, leaks_answer, word_list, write_facts, write_kg
from knowsub.kg.folders import BEYOND, CONTROL, ELSEWHERE, Counts, folder_facts
from knowsub.kg.given import write_given
from knowsub.kg.options import FactSource, PrepareOptions
from knowsub.kg.unseen import unseen_entities
from knowsub.kg.wordnet import WordNet
from knowsub.kg.words import comparable

AMBIGUOUS = "another sense or hypernym of the same subject words"


def collect_facts(targets: Sequence[str], options: PrepareOptions) -> FactSplits:
    """Return the facts of all targets and the control facts apart from them.

    Args:
        targets: Names of the targets; `options.extra_targets` are added to them.
        options: Where the facts are, sizes and limits.

    Returns:
        The facts.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a target is unknown or too small, a file is wrong, there are too few control
            facts, or target and control overlap and that is refused.
    """
    if options.fact_source == FactSource.wordnet:
        return wordnet_facts(wordnet.load(), targets, options)
    return folder_facts(targets, options)


def draw_summary(facts: FactSplits, targets: Sequence[str], options: PrepareOptions) -> list[str]:
    """Return, for each target that is a part of its source, how many facts of how many it has."""
    rule = "the closest" if options.fact_source == FactSource.wordnet else "drawn by hash"
    taken = {
        name: (facts.counts[name]["target"], facts.counts[name].get(BEYOND, 0)) for name in targets
    }
    return [
        f"{name}: {number} of {number + beyond} facts ({rule})"
        for name, (number, beyond) in taken.items()
        if beyond
    ]


def without_neighborhood(counts: Mapping[str, Counter[str]]) -> list[str]:
    """Return a warning for each target near which no fact is held, from facts per split."""
    near = (Split.NEIGHBORHOOD_TRAIN.value, Split.NEIGHBORHOOD_HELDOUT.value)
    return [
        f"WARNING {target}: no control fact shares a word with it, so train.neighborhood_weight "
        "has no facts to hold and the report no neighborhood; see docs/own-facts.md"
        for target, split in counts.items()
        if not any(split[name] for name in near)
    ]


def write_fact_splits(
    folder: Path, facts: FactSplits, targets: Sequence[str], options: PrepareOptions
) -> Mapping[str, Counter[str]]:
    """Write all facts, each target's facts with their splits, given statements, unseen entities.

    Args:
        folder: Where to.
        facts: The facts.
        targets: Names of the targets.
        options: Shares of the splits, number of unseen entities.

    Returns:
        Facts per split of each target.

    Raises:
        ValueError: As in `build_kg`.
    """
    counts = {}
    for target in targets:
        kg = build_kg(facts, target, options.validation_share, options.heldout_share, options.seed)
        write_kg(folder / f"kg/{target}.jsonl", kg)
        counts[target] = Counter(split.value for _, split in kg)
    write_facts(folder / "facts.jsonl", facts.facts)
    write_given(folder / "statements.jsonl", facts.given)
    nouns = (fact.subject_words for fact in wordnet.load().facts())
    entities = unseen_entities(nouns, facts.facts, options)
    (folder / "unseen.txt").write_text("".join(f"{name}\n" for name in entities), encoding="utf-8")
    return counts


def wordnet_facts(nouns: WordNet, targets: Iterable[str], options: PrepareOptions) -> FactSplits:
    """Return the facts of all targets and control facts; each subject's words name one fact only.

    Raises ValueError if a synset is unknown, a target has fewer than two usable facts, or there are
    too few control facts.
    """
    names = sorted({*targets, *options.extra_targets})
    counts: Counts = {name: Counter() for name in [*names, CONTROL]}
    target_facts = _wordnet_targets(nouns, names, options, counts)
    check_targets(target_facts)
    in_targets = {fact for facts in target_facts.values() for fact in facts}
    pool = [
        fact for fact in nouns.facts() if unusable(fact, options) is None and fact not in in_targets
    ]
    pool.sort(key=lambda fact: _rarity(nouns, fact))
    sharing_words = facts_sharing_words(in_targets, pool)
    by_subject = {comparable(fact.subject_words): fact for fact in in_targets}
    neighborhood = {}
    for name in names:
        free = [
            fact
            for fact in sharing_words
            if by_subject.get(comparable(fact.subject_words), fact) == fact
        ]
        neighborhood[name] = neighborhood_facts(
            target_facts[name], free, options.neighborhood_facts, unique_subjects=True
        )
        by_subject |= {comparable(fact.subject_words): fact for fact in neighborhood[name]}
        counts[name]["neighborhood"] = len(neighborhood[name])
    synsets = {synset for fact in in_targets for synset in (fact.subject, fact.object)}
    overlapping = {fact for fact in pool if {fact.subject, fact.object} & synsets}
    overlapping.update(sharing_words)
    control = _wordnet_control(pool, overlapping, by_subject, options, counts[CONTROL])
    return FactSplits(target_facts, neighborhood, control, counts)


def unusable(fact: Fact, options: PrepareOptions) -> str | None:
    """Return why a fact of WordNet is left out, or None if it is not."""
    if len(word_list(fact.subject_words)) > options.max_subject_words:
        return f"subject has more than {options.max_subject_words} words"
    if len(word_list(fact.object_words)) > options.max_object_words:
        return f"object has more than {options.max_object_words} words"
    return "subject or object leaks the other" if leaks_answer(fact) else None


def _wordnet_targets(
    nouns: WordNet, names: Sequence[str], options: PrepareOptions, counts: Counts
) -> dict[str, tuple[Fact, ...]]:
    """Return each target's facts: one per subject words, the closest first, objects spread."""
    usable = _usable_neighborhoods(nouns, names, options, counts)
    order = [(fact, distance) for facts in usable.values() for fact, distance in facts.items()]
    # Of several facts with the same subject words, the one of the most frequent sense is kept.
    order.sort(key=lambda pair: (_rarity(nouns, pair[0])[0], pair[1], pair[0].key))
    first: dict[str, Fact] = {}
    for fact, _ in order:
        first.setdefault(comparable(fact.subject_words), fact)
    targets = {}
    for name, facts in usable.items():
        unambiguous = [fact for fact in facts if first[comparable(fact.subject_words)] == fact]
        unambiguous.sort(key=lambda fact: (facts[fact], _rarity(nouns, fact)))
        targets[name] = _spread_objects(unambiguous, options)
        beyond = len(unambiguous) - len(targets[name])
        counts[name].update({AMBIGUOUS: len(facts) - len(unambiguous), BEYOND: beyond})
        counts[name]["target"] = len(targets[name])
    return targets


def _usable_neighborhoods(
    nouns: WordNet, names: Sequence[str], options: PrepareOptions, counts: Counts
) -> dict[str, dict[Fact, int]]:
    """Return each target's usable facts with their distances; a shared fact goes to the closest."""
    around = {name: nouns.neighborhood(name, options.hypernym_levels) for name in names}
    owner: dict[Fact, tuple[int, str]] = {}
    for name, facts in around.items():
        for fact, distance in facts.items():
            owner[fact] = min(owner.get(fact, (distance, name)), (distance, name))
    usable: dict[str, dict[Fact, int]] = {name: {} for name in names}
    for name, facts in around.items():
        for fact, distance in facts.items():
            reason = unusable(fact, options) or (ELSEWHERE if owner[fact][1] != name else None)
            if reason is None:
                usable[name][fact] = distance
            else:
                counts[name][reason] += 1
    return usable


def _spread_objects(facts: Sequence[Fact], options: PrepareOptions) -> tuple[Fact, ...]:
    """Return the first facts; those of an object that has its share already come last."""
    limit = max(1, int(options.max_object_share * options.target_candidates))
    counts: Counter[str] = Counter()
    within: list[Fact] = []
    beyond: list[Fact] = []
    for fact in facts:
        counts[fact.object_words] += 1
        (within if counts[fact.object_words] <= limit else beyond).append(fact)
    return tuple([*within, *beyond][: options.target_candidates])


def _wordnet_control(
    pool: Sequence[Fact],
    overlapping: Container[Fact],
    taken_subjects: Container[str],
    options: PrepareOptions,
    counts: Counter[str],
) -> tuple[Fact, ...]:
    """Return facts that overlap with no target, several per object."""
    first: dict[str, Fact] = {}
    for fact in pool:
        first.setdefault(comparable(fact.subject_words), fact)
    apart = {words: fact for words, fact in first.items() if fact not in overlapping}
    by_object: defaultdict[str, list[Fact]] = defaultdict(list)
    for words, fact in apart.items():
        if words not in taken_subjects:
            by_object[fact.object_words].append(fact)
    size = options.facts_per_object
    objects = [words for words, facts in by_object.items() if len(facts) >= size]
    # The salt is part of the result: another word would draw other control facts.
    objects.sort(key=lambda words: hash_rank(words, options.seed, "tails"))
    control = [fact for words in objects for fact in by_object[words][:size]]
    if len(control) < options.control_facts:
        raise ValueError(
            f"prepare.control_facts: value {options.control_facts} is not allowed; WordNet has "
            f"{len(control)} at {size} per object apart from these targets"
        )
    counts[CONTROL] = options.control_facts
    counts["shares something with a target"] = len(first) - len(apart)
    counts[AMBIGUOUS] = len(pool) - len(first)
    return tuple(control[: options.control_facts])


def _rarity(nouns: WordNet, fact: Fact) -> tuple[int, bytes]:
    """Return a key that sorts facts by the frequency of the subject's sense, equals by hash."""
    return (-nouns.synsets[fact.subject].frequency, hash_rank(fact.key, 0, "common"))
