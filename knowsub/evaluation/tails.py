"""The tails and heads that wrong answers and other questions are drawn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from knowsub.kg.triple import Fact, Statement


@dataclass(frozen=True)
class Tails:
    """The tails of every relation, from which distractors are drawn."""

    texts: tuple[str, ...]
    """Distinct texts of tails."""
    counts: dict[str, Counter[int]]
    """Relation -> how many facts have each tail (index in `texts`)."""
    true: dict[tuple[str, str], frozenset[int]]
    """(head words, relation) -> tails that are true of the head."""

    def drawn(
        self, fact: Fact, *, by_frequency: bool, number: int, generator: torch.Generator
    ) -> list[int]:
        """Return distractors for one fact.

        Args:
            fact: The fact.
            by_frequency: Whether a tail is drawn in proportion to the facts that have it; if
                not, every tail of the relation is as likely.
            number: Distractors wanted.
            generator: Source of randomness.

        Returns:
            Distinct indices of tails that are not true of the head. Where the relation has too
            few, tails of other relations fill up; fewer come back only if there are no more.
        """
        banned = self.true[fact.head_words, fact.relation]
        relation = self.counts[fact.relation]
        near = [tail for tail in relation if tail not in banned]
        weights = [float(relation[tail]) if by_frequency else 1.0 for tail in near]
        chosen = _sample(near, weights, number, generator)
        far = [i for i in range(len(self.texts)) if i not in banned and i not in relation]
        return chosen + _sample(far, [1.0] * len(far), number - len(chosen), generator)


def known_tails(statements: Sequence[Statement]) -> Tails:
    """Return the tails of every relation, over all facts of the statements.

    Args:
        statements: Statements of all facts.

    Returns:
        The tails; a fact counts once however often it is stated.
    """
    facts = {one.fact: one.tail for one in statements}
    texts = tuple(dict.fromkeys(facts.values()))
    index = {text: position for position, text in enumerate(texts)}
    counts: dict[str, Counter[int]] = {}
    true: dict[tuple[str, str], frozenset[int]] = {}
    for fact, text in facts.items():
        counts.setdefault(fact.relation, Counter())[index[text]] += 1
        key = (fact.head_words, fact.relation)
        true[key] = true.get(key, frozenset()) | {index[text]}
    return Tails(texts, counts, true)


def _sample(
    values: list[int], weights: list[float], number: int, generator: torch.Generator
) -> list[int]:
    number = min(number, len(values))
    if number <= 0:
        return []
    picked = torch.multinomial(torch.tensor(weights), number, generator=generator)
    return [values[index] for index in picked.tolist()]


class OtherHeads:
    """Statements about other heads of the same relation, drawn at random."""

    def __init__(self, pool: Sequence[Statement]) -> None:
        self._by_family: dict[tuple[str, str], list[Statement]] = {}
        self._by_relation: dict[str, list[Statement]] = {}
        for one in pool:
            relation = one.fact.relation
            self._by_relation.setdefault(relation, []).append(one)
            self._by_family.setdefault((relation, one.family), []).append(one)

    def drawn(self, statement: Statement, generator: torch.Generator) -> Statement:
        """Return a statement about another head, in the same template family where there is one.

        Args:
            statement: The statement whose head is replaced.
            generator: Source of randomness.

        Returns:
            The other statement, each as likely.

        Raises:
            ValueError: If the relation has no other head.
        """
        relation = statement.fact.relation
        for pool in (
            self._by_family.get((relation, statement.family), []),
            self._by_relation.get(relation, []),
        ):
            order: list[int] = torch.randperm(len(pool), generator=generator).tolist()
            for index in order:
                if other_head(pool[index].fact, statement.fact):
                    return pool[index]
        head = statement.fact.head_words
        raise ValueError(f"relation {relation!r} has no head but {head!r}")


def other_head(asked: Fact, fact: Fact) -> bool:
    """Return whether two facts share the relation but neither the head nor its words."""
    same = asked.head == fact.head or asked.head_words == fact.head_words
    return asked.relation == fact.relation and not same
