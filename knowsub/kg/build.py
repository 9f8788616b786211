"""Target, neighbourhood and control facts of one target KG, kept apart and divided."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from knowsub.kg.facts import Fact, Split, content_words, fact_words
from knowsub.kg.overlap import check_targets, find_overlaps


@dataclass(frozen=True)
class FactSplits:
    """All facts at hand: every target with its near facts, and the control facts of them all.

    It is the same whichever of its targets are asked for, so that asking for one more changes
    no other target's facts.
    """

    targets: Mapping[str, tuple[Fact, ...]]
    """Target facts by target; no fact is in two."""
    neighborhood: Mapping[str, tuple[Fact, ...]]
    """By target: facts of no target that share a tail or head word with this one."""
    control: tuple[Fact, ...]
    """Facts that share no fact, synset, word or statement with any target."""
    counts: Mapping[str, Mapping[str, int]]
    """By target and for `control`: facts kept, and facts left out by reason [facts]."""

    @property
    def facts(self) -> list[Fact]:
        """Every fact once, by its key."""
        groups = [*self.targets.values(), *self.neighborhood.values(), self.control]
        return sorted({fact for group in groups for fact in group}, key=lambda fact: fact.key)


def build_kg(
    world: FactSplits, target: str, validation_share: float, heldout_share: float, seed: int
) -> list[tuple[Fact, Split]]:
    """Return the facts of one target KG, each with the one part that it plays.

    Args:
        world: The facts at hand.
        target: Name of the target.
        validation_share: Share of the control facts for choosing checkpoints [fraction].
        heldout_share: Share of the control and near facts for the report alone [fraction].
        seed: Of the division.

    Returns:
        The facts with their splits, by split and then by key. The control splits depend on the
        control facts and the seed alone; near facts are divided within each tail.

    Raises:
        ValueError: If the target is unknown or too small, there are fewer than 3 control facts,
            or a control or near fact is one of a target.
    """
    if target not in world.targets:
        raise ValueError(f"target {target!r} is not one of {sorted(world.targets)}")
    check_targets({target: world.targets[target]})
    check_splits(world)
    parts: dict[Split, Sequence[Fact]] = {Split.TARGET: world.targets[target]}
    parts |= divide_control(world.control, validation_share, heldout_share, seed)
    near = sorted(
        world.neighborhood.get(target, ()), key=lambda fact: (fact.object_words, fact.key)
    )
    heldout = {i for i in range(len(near)) if int((i + 1) * heldout_share) > int(i * heldout_share)}
    parts[Split.NEIGHBORHOOD_TRAIN] = [fact for i, fact in enumerate(near) if i not in heldout]
    parts[Split.NEIGHBORHOOD_HELDOUT] = [near[i] for i in sorted(heldout)]
    return [
        (fact, split) for split in parts for fact in sorted(parts[split], key=lambda fact: fact.key)
    ]


def divide_control(
    control: Sequence[Fact], validation_share: float, heldout_share: float, seed: int
) -> dict[Split, list[Fact]]:
    """Return the control facts in their three parts.

    Args:
        control: The control facts, at least 3.
        validation_share: Share for choosing checkpoints [fraction].
        heldout_share: Share for the report alone [fraction].
        seed: Of the division.

    Returns:
        The three control splits; each holds at least one fact.

    Raises:
        ValueError: If the shares leave a split without a fact.
    """
    order = hash_order(control, seed, "control")
    validation = max(1, round(len(order) * validation_share))
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


def check_splits(world: FactSplits) -> None:
    """Refuse a world in which training could see what it must not.

    Args:
        world: The facts at hand.

    Raises:
        ValueError: If a control fact shares anything with a target, a near fact is a fact or
            statement of a target or of control, or two targets hold the same fact.
    """
    targets = [fact for facts in world.targets.values() for fact in facts]
    if len(set(targets)) < len(targets):
        twice = sorted({fact.key for fact in targets if targets.count(fact) > 1})
        raise ValueError(f"two targets hold the same facts: {twice[:5]}")
    if touching := find_overlaps(targets, world.control):
        raise ValueError(f"control touches a target: {'; '.join(map(str, touching[:5]))}")
    elsewhere = {fact.key for fact in [*targets, *world.control]}
    for name, facts in world.neighborhood.items():
        if shared := sorted(fact.key for fact in facts if fact.key in elsewhere):
            raise ValueError(f"near facts of {name!r} are target or control facts: {shared[:5]}")


def hash_order(facts: Iterable[Fact], seed: int, salt: str) -> list[Fact]:
    """Return facts in a random-looking order that is the same on every machine.

    Ordering by hash rather than shuffling keeps the order of all others when one fact is added.

    Args:
        facts: The facts, in any order.
        seed: Of the order.
        salt: What the order is for; other salts give unrelated orders.

    Returns:
        The facts in the order of their hashes.
    """
    return sorted(facts, key=lambda fact: hash_rank(fact.key, seed, salt))


def hash_rank(name: str, seed: int, salt: str) -> bytes:
    """Return a name's place in a random-looking order, as bytes to sort by.

    Args:
        name: What is ordered.
        seed: Of the order.
        salt: What the order is for.

    Returns:
        A digest that depends on the three alone.
    """
    return hashlib.sha256(f"{seed}|{salt}|{name}".encode()).digest()


def neighborhood_facts(
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
    heads = {fact.subject_words.lower() for fact in target}
    tails = {fact.object_words.lower() for fact in target}
    seen = set(heads)
    rank: Counter[tuple[int, str]] = Counter()
    for closeness, fact in sorted(
        ((_closeness(fact, heads, tails), fact) for fact in facts_sharing_words(target, pool)),
        key=lambda pair: pair[0],
    ):
        if not (unique_heads and fact.subject_words.lower() in seen):
            seen.add(fact.subject_words.lower())
            rank[closeness, fact.object_words] += 1
            ranked.append((closeness, rank[closeness, fact.object_words], fact.object_words, fact))
    ranked.sort(key=lambda item: (*item[:3], item[3].key))
    return tuple(item[3] for item in ranked[:most])


def facts_sharing_words(target: Iterable[Fact], pool: Iterable[Fact]) -> list[Fact]:
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
        if not words.isdisjoint(content_words(fact.object_words))
        or not words.isdisjoint(content_words(fact.subject_words))
    ]


def _closeness(fact: Fact, heads: set[str], tails: set[str]) -> int:
    """Return how a fact shares a target's words: 0 its tail, up to 3 for any other word."""
    if fact.object_words.lower() in tails:
        return 0
    if fact.object_words.lower() in heads:
        return 1
    return 2 if fact.subject_words.lower() in heads | tails else 3
