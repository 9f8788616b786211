"""Surface words: what two facts share in the eyes of a language model, whatever their synsets."""

from __future__ import annotations

import re
from functools import lru_cache

from knowsub.kg.triple import Fact

FUNCTION_WORDS = frozenset(
    {"a", "an", "and", "as", "at", "by", "for", "from", "in", "into", "of", "on", "or", "the", "to"}
)
"""Words that every text shares, so that sharing them means nothing."""

SHORTEST_PART = 3
"""Letters from which a word inside another word counts as giving it away [letters]."""


def word_list(words: str) -> list[str]:
    """Return surface words one by one, in their order.

    Args:
        words: Surface words, such as `T-shirt shop`.

    Returns:
        The words split at all that is neither letter nor digit: `T`, `shirt`, `shop`.
    """
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?", words)


@lru_cache(maxsize=2**18)
def content_words(words: str) -> frozenset[str]:
    """Return the words that carry meaning, in lower case.

    Args:
        words: Surface words, such as `head of state`.

    Returns:
        The words split at blanks, hyphens and underscores, without function words; where nothing
        else is left, the function words themselves.
    """
    found = frozenset(word_list(words.lower()))
    return found - FUNCTION_WORDS or found


def fact_words(fact: Fact) -> frozenset[str]:
    """Return the content words of a fact's head and tail together."""
    return content_words(fact.head_words) | content_words(fact.tail_words)


def gives_away(fact: Fact) -> bool:
    """Return whether the prompt already spells the answer, or the answer spells the head.

    `apartment building` is a `building` and `farmhouse` is a `house` for anyone who can read; such
    a fact tests copying, not knowledge.

    Args:
        fact: The fact.

    Returns:
        True if head and tail share a content word, or a word of one of at least `SHORTEST_PART`
        letters stands inside a word of the other.
    """
    heads, tails = content_words(fact.head_words), content_words(fact.tail_words)
    return any(
        head == tail
        or (len(head) >= SHORTEST_PART and head in tail)
        or (len(tail) >= SHORTEST_PART and tail in head)
        for head in heads
        for tail in tails
    )


def statement_words(fact: Fact) -> tuple[str, str, str]:
    """Return what a statement of the fact says: facts with the same words have the same text."""
    return (fact.head_words.lower(), fact.relation, fact.tail_words.lower())
