"""What every reader of a facts file returns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from knowsub.kg.triple import Fact, Statement
from knowsub.kg.words import statement_words


@dataclass(frozen=True, slots=True)
class Skip:
    """One entry of a file that was not taken over."""

    place: str
    """File and line, and the entry's number where a line may hold several."""
    what: str
    """The entry in words, such as `fruit IsA rarely`."""
    reason: str
    """Why it was left out; equal reasons are equal strings, for counting."""


@dataclass(frozen=True)
class Reading:
    """Everything that a reader found in a file: each entry is a fact, a statement or a skip."""

    facts: tuple[Fact, ...]
    """The facts, each once, in the order of the file."""
    statements: tuple[Statement, ...] = ()
    """Statements that the file itself carries, in its order."""
    skipped: tuple[Skip, ...] = ()
    """Entries that gave no fact, or facts that were left out."""
    questions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Identifiers of the questions behind a fact, by the fact's key."""

    @property
    def counts(self) -> dict[str, int]:
        """Facts read, and entries skipped by reason [entries]."""
        reasons = Counter(skip.reason for skip in self.skipped)
        return {"read": len(self.facts), **{key: reasons[key] for key in sorted(reasons)}}


DUPLICATE = "duplicate"
SAME_WORDS = "the same words as an earlier fact"
CONTRADICTION = "contradiction: the head has another tail already"


def keep_facts(
    entries: Iterable[tuple[str, Fact]], *, one_tail: bool
) -> tuple[tuple[Fact, ...], tuple[Skip, ...]]:
    """Return each fact once, and what was left out.

    Args:
        entries: Places and facts, in the order of the file.
        one_tail: Whether a second tail of the same head words and relation is left out.

    Returns:
        The facts kept, the first of those that clash, and the skips.
    """
    kept: dict[tuple[str, str, str], Fact] = {}
    tails: set[tuple[str, str]] = set()
    skipped = []
    for place, fact in entries:
        words = statement_words(fact)
        reason = None
        if words in kept:
            reason = DUPLICATE if kept[words] == fact else SAME_WORDS
        elif one_tail and words[:2] in tails:
            reason = CONTRADICTION
        if reason is None:
            kept[words] = fact
            tails.add(words[:2])
        else:
            skipped.append(skip(place, fact, reason))
    return tuple(kept.values()), tuple(skipped)


def skip(place: str, fact: Fact, reason: str) -> Skip:
    """Return the skip of a fact that stands at a place of a file."""
    return Skip(place, f"{fact.head} {fact.relation} {fact.tail}", reason)
