"""Entities that no fact speaks of, which the model answers with the words of a target.

A model answers about heads that it knows nothing of, too, and often with a tail of the target. Held
to those answers, a mask cannot take the target's words from other heads; the few real facts near a
target do not suffice for that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise

from knowsub.kg.build import hash_rank
from knowsub.kg.facts import Fact, Role, Split, Statement, content_words, word_list
from knowsub.kg.options import RoleAssignment, VerbalizeOptions
from knowsub.kg.templates import SurfaceForms, Templates, statements

Ask = Callable[[Sequence[Statement], Sequence[str]], Sequence[Sequence[float]]]
"""Statements, whose prompts alone count, and tails -> probability of each tail's first token."""


def unseen_entities(
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
    taken = frozenset[str]().union(*(content_words(fact.subject_words) for fact in told))
    free = {
        noun
        for noun in nouns
        if noun.islower()
        and len(word_list(noun)) <= words
        and taken.isdisjoint(content_words(noun))
    }
    return sorted(sorted(free, key=lambda noun: hash_rank(noun, seed, "untold"))[:most])


def unseen_facts(
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
        Facts of the split `unseen`. Every tail gets heads in proportion to the target facts
        that it ends: those that give it most probability.
    """
    relations: dict[str, list[Fact]] = {}
    for fact in target:
        relations.setdefault(fact.relation, []).append(fact)
    found: list[tuple[Fact, Split]] = []
    for relation, facts in relations.items():
        ends = list({fact.object_words: fact for fact in facts}.values())
        share = most // len(relations)
        asked = _asked(heads, ends[0], templates, options) if share else []
        rows = ask(asked, [f" {end.object_words}" for end in ends]) if asked else []
        counts = Counter(fact.object_words for fact in facts)
        upto = [0, *accumulate(counts[end.object_words] for end in ends)]
        places = [share * told // len(facts) for told in upto]
        quotas = [after - before for before, after in pairwise(places)]
        for row, column in sorted(_likeliest(rows, quotas, heads).items()):
            end = ends[column]
            fact = Fact(heads[row], relation, end.object, heads[row], end.object_words)
            found.append((fact, Split.UNSEEN))
    return found


def _likeliest(
    rows: Sequence[Sequence[float]], quotas: Sequence[int], heads: Sequence[str]
) -> dict[int, int]:
    """Return head -> tail, as many heads per tail as its quota; small quotas choose first."""
    chosen: dict[int, int] = {}
    for column in sorted(range(len(quotas)), key=lambda column: quotas[column]):
        free = (row for row in range(len(rows)) if row not in chosen)
        order = sorted(free, key=lambda row: (-rows[row][column], heads[row]))
        chosen |= dict.fromkeys(order[: quotas[column]], column)
    return chosen


def _asked(
    heads: Sequence[str], some: Fact, templates: Templates, options: VerbalizeOptions
) -> list[Statement]:
    """Return one statement per head in the first training family that the relation has."""
    has = [template.family for template in templates[some.relation]]
    trained = [one for one in options.train_families if one in has]
    family = (
        trained[0] if options.role_assignment == RoleAssignment.families and trained else has[0]
    )
    grid = SurfaceForms(options.article, options.bare, options.leading_space)
    return [
        statements(
            Fact(head, some.relation, some.object, head, some.object_words),
            Split.UNSEEN, templates, {family: Role.TRAIN}, grid,
        )[0]
        for head in heads
    ]  # fmt: skip
