"""Entities that no fact speaks of, which the model nevertheless answers with a target's objects.

A model also answers about subjects that it knows nothing of, often with an object of the target.
Held to those answers, a mask cannot take the target's words from other subjects; the few real facts
near a target do not suffice for that.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise

from knowsub.kg.build import hash_rank
from knowsub.kg.facts import Fact, Role, Split, Statement, content_words, word_list
from knowsub.kg.options import PrepareOptions, RoleAssignment, VerbalizeOptions
from knowsub.kg.templates import Templates, statements

Predict = Callable[[Sequence[Statement], Sequence[str]], Sequence[Sequence[float]]]
"""Statements, whose prompts alone count, and objects -> probability of each one's first token."""


def unseen_entities(
    nouns: Iterable[str], facts: Iterable[Fact], options: PrepareOptions
) -> list[str]:
    """Return distinct nouns that share no content word with a fact's subject, in order.

    Names, which capitals show, are left out, and nouns of more than `max_subject_words` words; of
    the others, the seed decides which `unseen_entities` are taken.
    """
    taken = frozenset[str]().union(*(content_words(fact.subject_words) for fact in facts))
    free = {
        noun
        for noun in nouns
        if noun.islower()
        and len(word_list(noun)) <= options.max_subject_words
        and taken.isdisjoint(content_words(noun))
    }
    # The salt is part of the result: another word would draw other nouns.
    order = sorted(free, key=lambda noun: hash_rank(noun, options.seed, "untold"))
    return sorted(order[: options.unseen_entities])


def unseen_facts(
    target: Iterable[Fact],
    entities: Sequence[str],
    templates: Templates,
    options: VerbalizeOptions,
    limit: int,
    predict: Predict,
) -> list[tuple[Fact, Split]]:
    """Return what a model answers, in a target's words, about entities that no fact speaks of.

    Args:
        target: The target facts; each of their relations gets an equal part of the limit, but those
            whose subjects are mostly names: no common noun has a capital or a currency.
        entities: The unseen entities.
        templates: The templates by relation.
        options: The first training family asks, in its first form.
        limit: Facts at most.
        predict: Probabilities under the original model.

    Returns:
        Facts of the split `unseen`. Every object gets entities in proportion to the target facts
        that it answers: those that give it the most probability.
    """
    by_relation: defaultdict[str, list[Fact]] = defaultdict(list)
    for fact in target:
        by_relation[fact.relation].append(fact)
    for relation, facts in list(by_relation.items()):
        if 2 * sum(fact.subject_words[:1].isupper() for fact in facts) > len(facts):
            del by_relation[relation]
    unseen: list[tuple[Fact, Split]] = []
    for relation, facts in by_relation.items():
        answers = list({fact.object_words: fact for fact in facts}.values())
        share = limit // len(by_relation)
        prompts = _prompts(entities, answers[0], templates, options) if share else []
        objects = [f" {answer.object_words}" for answer in answers]
        probabilities = predict(prompts, objects) if prompts else []
        counts = Counter(fact.object_words for fact in facts)
        # Rounded cumulative sums, so that the quotas add up to the share.
        cumulative = [0, *accumulate(counts[answer.object_words] for answer in answers)]
        bounds = [share * count // len(facts) for count in cumulative]
        quotas = [end - start for start, end in pairwise(bounds)]
        for row, column in sorted(_likeliest(probabilities, quotas, entities).items()):
            answer = answers[column]
            words = entities[row], answer.object_words
            unseen.append((Fact(words[0], relation, answer.object, *words), Split.UNSEEN))
    return unseen


def _prompts(
    entities: Sequence[str], fact: Fact, templates: Templates, options: VerbalizeOptions
) -> list[Statement]:
    """Return one statement per entity in the first training family that the relation has."""
    families = [template.family for template in templates[fact.relation]]
    if options.role_assignment == RoleAssignment.families:
        families = [name for name in options.train_families if name in families] or families
    roles = {families[0]: Role.TRAIN}
    facts = (Fact(name, fact.relation, fact.object, name, fact.object_words) for name in entities)
    return [statements(fact, Split.UNSEEN, templates, roles, options)[0] for fact in facts]


def _likeliest(
    probabilities: Sequence[Sequence[float]], quotas: Sequence[int], entities: Sequence[str]
) -> dict[int, int]:
    """Return entity -> object, each object with as many entities as its quota; small ones first."""
    chosen: dict[int, int] = {}
    for column in sorted(range(len(quotas)), key=lambda column: quotas[column]):
        free = (row for row in range(len(probabilities)) if row not in chosen)
        order = sorted(free, key=lambda row: (-probabilities[row][column], entities[row]))
        chosen |= dict.fromkeys(order[: quotas[column]], column)
    return chosen
