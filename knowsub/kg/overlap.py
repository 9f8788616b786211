"""What target and control facts share, and how they are kept apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from knowsub.kg.facts import Fact, fact_words, statement_words
from knowsub.kg.options import OverlapPolicy

_SHOWN = 5


class OverlapKind(StrEnum):
    """What a control fact shares with a target fact, from the strongest to the weakest."""

    FACT = "the same fact"
    STATEMENT = "the same statement"
    SYNSET = "the same head or tail"
    WORD = "a surface word"


@dataclass(frozen=True)
class FactOverlap:
    """One control fact that touches a target fact."""

    kind: OverlapKind
    """The strongest thing that they share."""
    control: Fact
    """The control fact."""
    target: Fact
    """The first target fact that shares it."""

    def __str__(self) -> str:
        """Return the overlap in words for an error message."""
        return f"{self.control.key!r} ({self.kind} as {self.target.key!r})"


@dataclass(frozen=True)
class Separation:
    """Control facts after the ones that touch a target were left out."""

    kept: tuple[Fact, ...]
    """Control facts that share nothing with the target, in the given order."""
    dropped: tuple[FactOverlap, ...]
    """The others, in the given order."""

    @property
    def counts(self) -> dict[str, int]:
        """How many were dropped, by what they shared [facts]."""
        found = Counter(overlap.kind for overlap in self.dropped)
        return {f"shares {kind} with a target": found[kind] for kind in OverlapKind if found[kind]}


def find_overlaps(target: Iterable[Fact], control: Iterable[Fact]) -> list[FactOverlap]:
    """Return every control fact that shares a fact, statement, synset or word with the target.

    Args:
        target: The target facts.
        control: The control facts.

    Returns:
        One overlap per touching control fact, in their order, with the strongest kind.
    """
    index: dict[tuple[OverlapKind, Hashable], Fact] = {}
    for fact in target:
        for trace in _traces(fact):
            index.setdefault(trace, fact)
    found = []
    for fact in control:
        touching = next((trace for trace in _traces(fact) if trace in index), None)
        if touching is not None:
            found.append(FactOverlap(touching[0], fact, index[touching]))
    return found


def separate(target: Iterable[Fact], control: Sequence[Fact], rule: OverlapPolicy) -> Separation:
    """Return the control facts that share nothing with the target.

    Args:
        target: The target facts, of every target KG that must stay untouched.
        control: The control facts.
        rule: Whether overlap is refused or filtered.

    Returns:
        What is kept and what was dropped, and why.

    Raises:
        ValueError: If there is overlap and it is refused, or filtering leaves nothing.

    Source:
        The reference's ConceptNet control KG holds 10 to 19 of its target facts; here it cannot.
    """
    dropped = tuple(find_overlaps(target, control))
    if dropped and rule == OverlapPolicy.refuse:
        shown = "; ".join(str(overlap) for overlap in dropped[:_SHOWN])
        more = f" and {len(dropped) - _SHOWN} more" if len(dropped) > _SHOWN else ""
        raise ValueError(
            f"prepare.overlap: {len(dropped)} control facts touch a target: {shown}{more}; "
            "set it to 'filter' to leave them out"
        )
    gone = {overlap.control for overlap in dropped}
    kept = tuple(fact for fact in control if fact not in gone)
    if not kept:
        raise ValueError(f"no control fact is left of {len(control)}: all of them touch a target")
    return Separation(kept, dropped)


def check_targets(targets: Mapping[str, Sequence[Fact]]) -> None:
    """Refuse targets that are too small to be one.

    Args:
        targets: The target facts by name.

    Raises:
        ValueError: If a target has no fact or a single one.
    """
    for name, facts in targets.items():
        if not facts:
            raise ValueError(f"target {name!r} has no fact; a target KG needs at least 2")
        if len(facts) == 1:
            raise ValueError(
                f"target {name!r} has one fact, {facts[0].key!r}; a target KG needs at least 2"
            )


def _traces(fact: Fact) -> list[tuple[OverlapKind, Hashable]]:
    """Return all that another fact could share with this one, the strongest first."""
    return [
        (OverlapKind.FACT, fact.key),
        (OverlapKind.STATEMENT, statement_words(fact)),
        *((OverlapKind.SYNSET, name) for name in (fact.subject, fact.object)),
        *((OverlapKind.WORD, word) for word in sorted(fact_words(fact))),
    ]
