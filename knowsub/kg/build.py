"""Target, neighborhood and control facts: chosen, kept apart, and divided into splits.

Control facts share nothing with any target, neighborhood facts share words with one, and no fact
of either is a fact of a target. Without this, training on control facts could teach the target.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from knowsub.kg.facts import Fact, Split, content_words, fact_words, statement_words
from knowsub.kg.given import GivenStatement
from knowsub.kg.options import OverlapPolicy
from knowsub.kg.words import comparable

_SHOWN = 5
"""Facts that an error message names at most."""


@dataclass(frozen=True)
class FactSplits:
    """All facts of a source: every target with its neighborhood facts, and the control facts.

    It depends on all targets together, not on the ones that are asked for, so that asking for one
    more changes no other target's facts.
    """

    targets: Mapping[str, tuple[Fact, ...]]
    """Target facts by target; no fact is in two."""
    neighborhood: Mapping[str, tuple[Fact, ...]]
    """By target: facts of no target that share a word with this one."""
    control: tuple[Fact, ...]
    """Facts that share no fact, synset, word or statement with any target."""
    counts: Mapping[str, Mapping[str, int]]
    """By target and for `control`: facts kept, and facts left out by reason [facts]."""
    validation: tuple[Fact, ...] = ()
    """Control facts that the source itself sets apart for validation."""
    given: tuple[GivenStatement, ...] = ()
    """Statements that the source itself carries."""

    @property
    def facts(self) -> list[Fact]:
        """Every fact once, by its key."""
        groups = [*self.targets.values(), *self.neighborhood.values(), self.control]
        return sorted({fact for group in groups for fact in group}, key=lambda fact: fact.key)


def build_kg(
    facts: FactSplits, target: str, validation_share: float, heldout_share: float, seed: int
) -> list[tuple[Fact, Split]]:
    """Return the facts of one target, each with the one part that it plays.

    Args:
        facts: The facts of the source.
        target: Name of the target.
        validation_share: Share of the control facts for choosing checkpoints [fraction].
        heldout_share: Share of the control and neighborhood facts for the report alone [fraction].
        seed: Of the division.

    Returns:
        The facts with their splits, by split and then by key. The control splits depend on the
        control facts and the seed alone; neighborhood facts are divided within each object.

    Raises:
        ValueError: If the target is unknown or too small, there are fewer than 3 control facts,
            or a control or neighborhood fact is one of a target.
    """
    if target not in facts.targets:
        raise ValueError(f"target {target!r} is not one of {sorted(facts.targets)}")
    check_targets({target: facts.targets[target]})
    check_splits(facts)
    kg: dict[Split, Sequence[Fact]] = {Split.TARGET: facts.targets[target]}
    shares = validation_share, heldout_share
    kg |= divide_control(facts.control, *shares, seed, facts.validation)
    neighborhood = sorted(
        facts.neighborhood.get(target, ()), key=lambda fact: (fact.object_words, fact.key)
    )
    # Every 1/share-th fact is held out; the facts are sorted by object, so each object gives some.
    heldout = {
        index
        for index in range(len(neighborhood))
        if int((index + 1) * heldout_share) > int(index * heldout_share)
    }
    kg[Split.NEIGHBORHOOD_TRAIN] = [
        fact for index, fact in enumerate(neighborhood) if index not in heldout
    ]
    kg[Split.NEIGHBORHOOD_HELDOUT] = [neighborhood[index] for index in sorted(heldout)]
    return [(fact, split) for split in kg for fact in sorted(kg[split], key=lambda fact: fact.key)]


def divide_control(
    control: Sequence[Fact],
    validation_share: float,
    heldout_share: float,
    seed: int,
    given: Sequence[Fact] = (),
) -> dict[Split, list[Fact]]:
    """Return the control facts in their three splits, each with at least one fact.

    Facts that are given as those of validation take the place of `validation_share`.
    """
    apart = set(given)
    order = hash_order(control, seed, "control")
    order.sort(key=lambda fact: fact not in apart)
    validation = len(given) or max(1, round(len(order) * validation_share))
    heldout = max(1, round(len(order) * heldout_share))
    if validation + heldout >= len(order):
        raise ValueError(
            f"{len(order)} control facts leave none to train on after {validation} for validation "
            f"and {heldout} held out"
        )
    return {
        Split.CONTROL_VALIDATION: order[:validation],
        Split.CONTROL_HELDOUT: order[validation : validation + heldout],
        Split.CONTROL_TRAIN: order[validation + heldout :],
    }


def hash_order(facts: Iterable[Fact], seed: int, salt: str) -> list[Fact]:
    """Return facts in a random-looking order that is the same on every machine.

    Ordering by hash rather than shuffling keeps the order of all others when one fact is added.
    The salt says what the order is for; other salts give unrelated orders.
    """
    return sorted(facts, key=lambda fact: hash_rank(fact.key, seed, salt))


def draw_facts(facts: Sequence[Fact], number: int, seed: int, salt: str) -> tuple[Fact, ...]:
    """Return so many facts at most, drawn by hash whatever their order, in the given order."""
    drawn = set(hash_order(facts, seed, salt)[:number])
    return tuple(fact for fact in facts if fact in drawn)


def hash_rank(name: str, seed: int, salt: str) -> bytes:
    """Return a digest of the three, for sorting names in the order that `hash_order` describes."""
    return hashlib.sha256(f"{seed}|{salt}|{name}".encode()).digest()


def neighborhood_facts(
    target: Sequence[Fact], pool: Iterable[Fact], limit: int, *, unique_subjects: bool
) -> tuple[Fact, ...]:
    """Return at most `limit` facts that share an object's or a subject's words with a target.

    The closest come first: those with an object of the target, then those whose object is a subject
    of it, then those whose subject is a subject or object of it, then those that share any other
    word; within each group evenly over the objects.

    Args:
        target: The target facts.
        pool: Facts to choose from, none of any target, the preferred ones first.
        limit: How many at most [facts].
        unique_subjects: Whether subject words must be new to the target and to each other.

    Returns:
        The facts.
    """
    subjects = {comparable(fact.subject_words) for fact in target}
    objects = {comparable(fact.object_words) for fact in target}

    def tier(fact: Fact) -> int:
        if comparable(fact.object_words) in objects:
            return 0
        if comparable(fact.object_words) in subjects:
            return 1
        return 2 if comparable(fact.subject_words) in subjects | objects else 3

    seen = set(subjects)
    ranks: Counter[tuple[int, str]] = Counter()
    ranked: list[tuple[int, int, str, str, Fact]] = []
    for fact in sorted(facts_sharing_words(target, pool), key=tier):
        if not (unique_subjects and comparable(fact.subject_words) in seen):
            seen.add(comparable(fact.subject_words))
            group = (tier(fact), fact.object_words)
            ranks[group] += 1
            ranked.append((group[0], ranks[group], group[1], fact.key, fact))
    return tuple(entry[-1] for entry in sorted(ranked, key=lambda entry: entry[:-1])[:limit])


def facts_sharing_words(target: Iterable[Fact], pool: Iterable[Fact]) -> list[Fact]:
    """Return the facts of a pool that share a content word with a target, in their order."""
    words = frozenset[str]().union(*(fact_words(fact) for fact in target))
    return [
        fact
        for fact in pool
        if not words.isdisjoint(content_words(fact.object_words))
        or not words.isdisjoint(content_words(fact.subject_words))
    ]


class OverlapKind(StrEnum):
    """What a control fact shares with a target fact, from the strongest to the weakest."""

    FACT = "the same fact"
    STATEMENT = "the same statement"
    SYNSET = "the same subject or object"
    WORD = "a surface word"


@dataclass(frozen=True)
class FactOverlap:
    """One control fact that overlaps with a target fact."""

    kind: OverlapKind
    """The strongest thing that they share."""
    control: Fact
    """The control fact."""
    target: Fact
    """The first target fact that shares it."""

    def __str__(self) -> str:
        """Return the overlap in words for an error message."""
        return f"{self.control.key!r} ({self.kind} as {self.target.key!r})"


def find_overlaps(target: Iterable[Fact], control: Iterable[Fact]) -> list[FactOverlap]:
    """Return every control fact that shares anything with the target, in their order."""
    owners: dict[tuple[OverlapKind, Hashable], Fact] = {}
    for fact in target:
        for trait in _traits(fact):
            owners.setdefault(trait, fact)
    overlaps = []
    for fact in control:
        shared = next((trait for trait in _traits(fact) if trait in owners), None)
        if shared is not None:
            overlaps.append(FactOverlap(shared[0], fact, owners[shared]))
    return overlaps


def _traits(fact: Fact) -> list[tuple[OverlapKind, Hashable]]:
    """Return all that another fact could share with this one, the strongest first."""
    return [
        (OverlapKind.FACT, comparable(fact.key)),
        (OverlapKind.STATEMENT, statement_words(fact)),
        *((OverlapKind.SYNSET, comparable(name)) for name in (fact.subject, fact.object)),
        *((OverlapKind.WORD, word) for word in sorted(fact_words(fact))),
    ]


@dataclass(frozen=True)
class Separation:
    """Control facts after the ones that overlap with a target were left out."""

    kept: tuple[Fact, ...]
    """Control facts that share nothing with the target, in the given order."""
    dropped: tuple[FactOverlap, ...]
    """The others, in the given order."""

    @property
    def counts(self) -> dict[str, int]:
        """How many were dropped, by what they shared [facts]."""
        counts = Counter(overlap.kind for overlap in self.dropped)
        return {
            f"shares {kind} with a target": counts[kind] for kind in OverlapKind if counts[kind]
        }


def separate(target: Iterable[Fact], control: Sequence[Fact], policy: OverlapPolicy) -> Separation:
    """Return the control facts that share nothing with the target.

    Args:
        target: The facts of every target that control facts must not touch.
        control: The control facts.
        policy: Whether overlap is refused or filtered.

    Returns:
        What is kept and what was dropped, and why.

    Raises:
        ValueError: If there is overlap and it is refused, or filtering leaves nothing.

    Source:
        The reference's ConceptNet control KG holds 10 to 19 of its target facts; here it cannot.
    """
    if not control:
        raise ValueError(
            "prepare.source_folder: its control files hold no fact; a mask needs some to keep"
        )
    dropped = tuple(find_overlaps(target, control))
    if dropped and policy == OverlapPolicy.refuse:
        shown = "; ".join(map(str, dropped[:_SHOWN]))
        more = f" and {len(dropped) - _SHOWN} more" if len(dropped) > _SHOWN else ""
        raise ValueError(
            f"prepare.overlap: {len(dropped)} control facts overlap with a target: {shown}{more}; "
            "set it to 'filter' to leave them out"
        )
    overlapping = {overlap.control for overlap in dropped}
    kept = tuple(fact for fact in control if fact not in overlapping)
    if not kept:
        raise ValueError(f"all {len(control)} control facts overlap with a target; none is left")
    return Separation(kept, dropped)


def check_targets(targets: Mapping[str, Sequence[Fact]]) -> None:
    """Raise where a target has no fact or a single one."""
    for name, facts in targets.items():
        if not facts:
            raise ValueError(f"target {name!r} has no fact; a target KG needs at least 2")
        if len(facts) == 1:
            raise ValueError(
                f"target {name!r} has one fact, {facts[0].key!r}; a target KG needs at least 2"
            )


def check_splits(facts: FactSplits) -> None:
    """Raise where a target leaks into control, neighborhood or another target."""
    targets = [fact for target in facts.targets.values() for fact in target]
    if duplicates := sorted(fact.key for fact, count in Counter(targets).items() if count > 1):
        raise ValueError(f"two targets hold the same facts: {duplicates[:_SHOWN]}")
    if overlaps := find_overlaps(targets, facts.control):
        shown = "; ".join(map(str, overlaps[:_SHOWN]))
        raise ValueError(f"control facts overlap with a target: {shown}")
    keys = {comparable(fact.key) for fact in [*targets, *facts.control]}
    for name, neighborhood in facts.neighborhood.items():
        if shared := sorted(fact.key for fact in neighborhood if comparable(fact.key) in keys):
            raise ValueError(
                f"neighborhood facts of {name!r} are target or control facts: {shared[:_SHOWN]}"
            )
