"""Facts near a target: not part of it, but sharing its words, where damage shows first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from knowsub.kg.triple import Fact
from knowsub.kg.words import content_words, fact_words


def near_facts(
    target: Sequence[Fact], pool: Iterable[Fact], most: int, *, unique_heads: bool
) -> tuple[Fact, ...]:
    """Return facts that share a tail or head word with a target.

    Args:
        target: The target facts.
        pool: Facts to choose from, none of any target, the preferred ones first.
        most: How many at most [facts].
        unique_heads: Whether head words must be new to the target and to each other.

    Returns:
        The facts, evenly over the tails: first those with a tail of the target, then those whose
        tail is a head of it, then those whose head is a head or tail of it, then those that share
        any other word.
    """
    ranked: list[tuple[int, int, str, Fact]] = []
    heads = {fact.head_words.lower() for fact in target}
    tails = {fact.tail_words.lower() for fact in target}
    seen = set(heads)
    rank: Counter[tuple[int, str]] = Counter()
    for closeness, fact in sorted(
        ((_closeness(fact, heads, tails), fact) for fact in sharing(target, pool)),
        key=lambda pair: pair[0],
    ):
        if not (unique_heads and fact.head_words.lower() in seen):
            seen.add(fact.head_words.lower())
            rank[closeness, fact.tail_words] += 1
            ranked.append((closeness, rank[closeness, fact.tail_words], fact.tail_words, fact))
    ranked.sort(key=lambda item: (*item[:3], item[3].key))
    return tuple(item[3] for item in ranked[:most])


def sharing(target: Iterable[Fact], pool: Iterable[Fact]) -> list[Fact]:
    """Return the facts of a pool that share a content word with a target.

    Args:
        target: The target facts.
        pool: Other facts.

    Returns:
        Those that share a word, in their order.
    """
    words = frozenset[str]().union(*(fact_words(fact) for fact in target))
    return [
        fact
        for fact in pool
        if not words.isdisjoint(content_words(fact.tail_words))
        or not words.isdisjoint(content_words(fact.head_words))
    ]


def _closeness(fact: Fact, heads: set[str], tails: set[str]) -> int:
    """Return how a fact shares a target's words: 0 its tail, up to 3 for any other word."""
    if fact.tail_words.lower() in tails:
        return 0
    if fact.tail_words.lower() in heads:
        return 1
    return 2 if fact.head_words.lower() in heads | tails else 3
