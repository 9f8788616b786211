"""Target, neighbourhood and control facts drawn from WordNet.

Everything is decided for all taught targets together, whichever of them are asked for.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence

from knowsub.kg.build import FactSplits, facts_sharing_words, hash_rank, neighborhood_facts
from knowsub.kg.facts import Fact, leaks_answer, word_list
from knowsub.kg.options import PrepareOptions
from knowsub.kg.overlap import check_targets
from knowsub.kg.wordnet import WordNet

ELSEWHERE = "belongs to another target, which is closer"
AMBIGUOUS = "another sense or hypernym of the same head words"
BEYOND = "beyond the number of facts asked for"


def wordnet_facts(wordnet: WordNet, targets: Iterable[str], options: PrepareOptions) -> FactSplits:
    """Return the facts of all taught targets and the control facts apart from them.

    Args:
        wordnet: The nouns.
        targets: Synsets asked for; `options.taught` are added to them.
        options: Sizes and limits.

    Returns:
        The world; within it each head's words name one fact only.

    Raises:
        ValueError: If a synset is unknown, a target has fewer than two usable facts, or there are
            too few control facts.
    """
    names = sorted({*targets, *options.extra_targets})
    counts: dict[str, Counter[str]] = {name: Counter() for name in [*names, "control"]}
    chosen = _choose_targets(
        wordnet, _neighbourhoods(wordnet, names, options, counts), options, counts
    )
    check_targets(chosen)
    taken = {fact for facts in chosen.values() for fact in facts}
    pool = [
        fact for fact in wordnet.facts() if unusable(fact, options) is None and fact not in taken
    ]
    pool.sort(key=lambda fact: _commonest(wordnet, fact))
    heads = {fact.subject_words.lower(): fact for fact in taken}
    near = {}
    beside = facts_sharing_words(taken, pool)
    for name in names:
        free = [fact for fact in beside if heads.get(fact.subject_words.lower(), fact) == fact]
        near[name] = neighborhood_facts(
            chosen[name], free, options.neighborhood_facts, unique_heads=True
        )
        heads |= {fact.subject_words.lower(): fact for fact in near[name]}
        counts[name]["near"] = len(near[name])
    ends = {end for fact in taken for end in (fact.subject, fact.object)}
    touching = {fact for fact in pool if fact.subject in ends or fact.object in ends}.union(beside)
    control = _control(pool, touching, heads, options, counts["control"])
    return FactSplits(chosen, near, control, counts)


def unusable(fact: Fact, options: PrepareOptions) -> str | None:
    """Return why a fact cannot be taught, or None if it can.

    Args:
        fact: The fact.
        options: Limits on the number of words.

    Returns:
        The reason, or None.
    """
    if len(word_list(fact.subject_words)) > options.max_subject_words:
        return f"head has more than {options.max_subject_words} words"
    if len(word_list(fact.object_words)) > options.max_object_words:
        return f"tail has more than {options.max_object_words} words"
    return "head or tail gives the other away" if leaks_answer(fact) else None


def _neighbourhoods(
    wordnet: WordNet,
    names: Sequence[str],
    options: PrepareOptions,
    counts: Mapping[str, Counter[str]],
) -> dict[str, dict[Fact, int]]:
    """Return each target's usable facts with their distances; a shared fact goes to the closest."""
    around = {name: wordnet.neighbourhood(name, options.hypernym_levels) for name in names}
    owner: dict[Fact, tuple[int, str]] = {}
    for name, facts in around.items():
        for fact, distance in facts.items():
            owner[fact] = min(owner.get(fact, (distance, name)), (distance, name))
    usable: dict[str, dict[Fact, int]] = {name: {} for name in names}
    for name, facts in around.items():
        for fact, distance in facts.items():
            reason = unusable(fact, options)
            if reason is None and owner[fact][1] != name:
                reason = ELSEWHERE
            if reason is None:
                usable[name][fact] = distance
            else:
                counts[name][reason] += 1
    return usable


def _choose_targets(
    wordnet: WordNet,
    around: Mapping[str, Mapping[Fact, int]],
    options: PrepareOptions,
    counts: Mapping[str, Counter[str]],
) -> dict[str, tuple[Fact, ...]]:
    """Return each target's facts: one per head words, the closest first, tails spread."""
    order = [(fact, distance) for facts in around.values() for fact, distance in facts.items()]
    order.sort(key=lambda pair: (_commonest(wordnet, pair[0])[0], pair[1], pair[0].key))
    first: dict[str, Fact] = {}
    for fact, _ in order:
        first.setdefault(fact.subject_words.lower(), fact)
    chosen = {}
    for name, facts in around.items():
        alone = [fact for fact in facts if first[fact.subject_words.lower()] == fact]
        alone.sort(key=lambda fact: (facts[fact], _commonest(wordnet, fact)))
        chosen[name] = _spread(alone, options)
        left = len(alone) - len(chosen[name])
        counts[name].update({AMBIGUOUS: len(facts) - len(alone), BEYOND: left})
        counts[name]["target"] = len(chosen[name])
    return chosen


def _spread(facts: Sequence[Fact], options: PrepareOptions) -> tuple[Fact, ...]:
    """Return the first facts, those of a tail that has its share last."""
    most = max(1, int(options.max_object_share * options.target_facts))
    seen: Counter[str] = Counter()
    first: list[Fact] = []
    last: list[Fact] = []
    for fact in facts:
        seen[fact.object_words] += 1
        (first if seen[fact.object_words] <= most else last).append(fact)
    return tuple([*first, *last][: options.target_facts])


def _control(
    pool: Sequence[Fact],
    touching: Container[Fact],
    heads: Container[str],
    options: PrepareOptions,
    counts: Counter[str],
) -> tuple[Fact, ...]:
    """Return facts that touch no target, several per tail."""
    first: dict[str, Fact] = {}
    for fact in pool:
        first.setdefault(fact.subject_words.lower(), fact)
    apart = {words: fact for words, fact in first.items() if fact not in touching}
    tails: defaultdict[str, list[Fact]] = defaultdict(list)
    for words, fact in apart.items():
        if words not in heads:
            tails[fact.object_words].append(fact)
    full = [tail for tail, facts in tails.items() if len(facts) >= options.facts_per_object]
    full.sort(key=lambda tail: hash_rank(tail, options.seed, "tails"))
    found = [fact for tail in full for fact in tails[tail][: options.facts_per_object]]
    if len(found) < options.control_facts:
        raise ValueError(
            f"prepare.control_facts: value {options.control_facts} is not allowed; WordNet has "
            f"{len(found)} at {options.facts_per_object} per tail apart from these targets"
        )
    counts["control"] = options.control_facts
    counts["shares something with a target"] = len(first) - len(apart)
    counts[AMBIGUOUS] = len(pool) - len(first)
    return tuple(found[: options.control_facts])


def _commonest(wordnet: WordNet, fact: Fact) -> tuple[int, bytes]:
    """Return a key that sorts facts by how common the head's sense is, equals in no order."""
    return (-wordnet.synsets[fact.subject].frequency, hash_rank(fact.key, 0, "common"))
