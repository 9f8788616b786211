"""Heads that were never told, whose answers use a target's words all the same.

A model answers about heads that it knows nothing of, too, and often with a tail of the target. Held
to those answers, a mask cannot take the target's words from other heads; the few real facts near a
target do not suffice for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from knowsub.kg.options import Choice, VerbalizeOptions
from knowsub.kg.split import hash_rank
from knowsub.kg.templates import Grid, Templates, statements
from knowsub.kg.triple import Fact, Role, Split, Statement
from knowsub.kg.words import content_words, word_list

Ask = Callable[[Sequence[Statement], Sequence[str]], Sequence[Sequence[float]]]
"""Statements, whose prompts alone count, and tails -> probability of each tail's first token."""


def untold_heads(
    nouns: Iterable[str], told: Iterable[Fact], *, words: int, most: int, seed: int
) -> list[str]:
    """Return nouns that no fact speaks of.

    Args:
        nouns: Nouns, of which names (in capitals) are left out.
        told: All facts at hand.
        words: Words in a head at most.
        most: Heads at most; which ones is decided by the seed.
        seed: Of the choice.

    Returns:
        Distinct nouns that share no content word with the head of a fact, in alphabetical order.
    """
    taken = frozenset[str]().union(*(content_words(fact.head_words) for fact in told))
    free = {
        noun
        for noun in nouns
        if noun.islower()
        and len(word_list(noun)) <= words
        and taken.isdisjoint(content_words(noun))
    }
    return sorted(sorted(free, key=lambda noun: hash_rank(noun, seed, "untold"))[:most])


def untold_facts(
    target: Iterable[Fact],
    heads: Sequence[str],
    templates: Templates,
    options: VerbalizeOptions,
    most: int,
    ask: Ask,
) -> list[tuple[Fact, Split]]:
    """Return what a model believes of heads that it was never told of, in a target's words.

    Args:
        target: The target facts; each of their relations gets its share.
        heads: Untold heads.
        templates: The templates by relation.
        options: The first training family asks, in its first form.
        most: Facts at most.
        ask: Probabilities under the original model.

    Returns:
        Facts of the split `near_untold`: the heads that give the target's tails most probability,
        each with the likeliest of these tails.
    """
    relations: dict[str, dict[str, Fact]] = {}
    for fact in target:
        relations.setdefault(fact.relation, {}).setdefault(fact.tail_words, fact)
    found: list[tuple[Fact, Split]] = []
    for relation, tails in relations.items():
        ends, share = list(tails.values()), most // len(relations)
        asked = _asked(heads, ends[0], templates, options) if share else []
        rows = ask(asked, [f" {end.tail_words}" for end in ends]) if asked else []
        order = sorted(range(len(rows)), key=lambda row: (-sum(rows[row]), heads[row]))
        for row in sorted(order[:share]):
            end = ends[list(rows[row]).index(max(rows[row]))]
            fact = Fact(heads[row], relation, end.tail, heads[row], end.tail_words)
            found.append((fact, Split.NEAR_UNTOLD))
    return found


def _asked(
    heads: Sequence[str], some: Fact, templates: Templates, options: VerbalizeOptions
) -> list[Statement]:
    """Return one statement per head in the first training family that the relation has."""
    has = [template.family for template in templates[some.relation]]
    trained = [one for one in options.train_families if one in has]
    family = trained[0] if options.choice == Choice.families and trained else has[0]
    grid = Grid(options.article, options.bare, options.leading_space)
    return [
        statements(
            Fact(head, some.relation, some.tail, head, some.tail_words),
            Split.NEAR_UNTOLD, templates, {family: Role.TRAIN}, grid,
        )[0]
        for head in heads
    ]  # fmt: skip
