"""Multiple-choice questions made from facts: the embedded downstream task.

The prompt is a statement without its tail ("A ziggurat is a kind of") and the choices are tails of
the same relation. The choices never stand in the prompt, where they would invite a shortcut, and
no distractor is also true, be it directly, by following the relation upwards, or of another sense
of the same word.

Questions about control facts draw their distractors among the tails of control facts. Were a
target tail among them, it would only ever be wrong in training, and a head could learn to avoid it
whatever it knows. Drawn by frequency, every control tail is right and wrong in the same proportion.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from knowsub.downstream.options import Distractors
from knowsub.downstream.questions import Group, Question, check
from knowsub.kg.triple import Fact, Split, Statement

CONTROL = frozenset({Split.CONTROL_TRAIN, Split.CONTROL_VALIDATION, Split.CONTROL_HELDOUT})
TEST = frozenset({Split.CONTROL_HELDOUT, Split.NEAR_HELDOUT})


def questions_from_facts(
    statements: Sequence[Statement],
    family: str,
    choices: int,
    distractors: Distractors,
    seed: int,
) -> tuple[list[Question], list[Question]]:
    """Return one question per fact: those that may be trained on, and those only tested.

    Control facts that mask training never used, and near facts it never used, are only tested.
    Near facts that it did use take no part: their words are the target's.

    Args:
        statements: All statements of one target KG.
        family: Template family whose prompts ask.
        choices: Choices per question.
        distractors: How wrong choices are drawn among the relation's tails.
        seed: Seed of the draw.

    Returns:
        The pool for `questions.divide` and the test questions.

    Raises:
        ValueError: If no statement is of the family, or a fact has too few possible distractors.
    """
    asked = [statement for statement in statements if statement.family == family]
    if not asked:
        known = ", ".join(sorted({statement.family for statement in statements})) or "none"
        raise ValueError(f"finetune.family: no statement of family {family!r}; there are {known}")
    facts = {statement.fact.key: statement.fact for statement in statements}
    truth = _truth(facts.values())
    tails = _tails(asked)
    made: dict[bool, list[Question]] = {True: [], False: []}
    for statement in asked:
        if statement.split is Split.NEAR_TRAIN:
            continue
        fact, control = statement.fact, statement.split in CONTROL
        chooser = random.Random(f"{seed}|{fact.key}")
        wrong = {
            text: count
            for text, count in tails[fact.relation, control].items()
            if text.strip().lower() not in truth[fact.relation, fact.head_words.lower()]
        }
        drawn = _draw(wrong, choices - 1, distractors, chooser, fact)
        made[statement.split in TEST].append(_ask(statement, drawn, chooser))
    return made[False], made[True]


def _tails(asked: Iterable[Statement]) -> dict[tuple[str, bool], Counter[str]]:
    """Return (relation, whether for control facts) -> tails and how many facts have them."""
    tails: dict[tuple[str, bool], Counter[str]] = defaultdict(Counter)
    for statement in asked:
        tails[statement.fact.relation, False][statement.tail] += 1
        if statement.split in CONTROL:
            tails[statement.fact.relation, True][statement.tail] += 1
    return tails


def _truth(facts: Iterable[Fact]) -> dict[tuple[str, str], set[str]]:
    """Return (relation, head words) -> words that are true tails, followed upwards."""
    listed = list(facts)
    above: dict[tuple[str, str], set[Fact]] = defaultdict(set)
    for fact in listed:
        above[fact.relation, fact.head].add(fact)
    truth: dict[tuple[str, str], set[str]] = defaultdict(set)
    for fact in listed:
        words, frontier, seen = truth[fact.relation, fact.head_words.lower()], [fact], {fact}
        while frontier:
            current = frontier.pop()
            words.add(current.tail_words.lower())
            new = above.get((fact.relation, current.tail), set()) - seen
            seen |= new
            frontier.extend(sorted(new, key=lambda other: other.key))
    return truth


def _draw(
    wrong: dict[str, int],
    count: int,
    distractors: Distractors,
    chooser: random.Random,
    fact: Fact,
) -> list[str]:
    distinct = {text.strip().lower() for text in wrong}
    if len(distinct) < count:
        raise ValueError(
            f"finetune.choices: fact {fact.key} has {len(distinct)} possible distractors, "
            f"{count} are wanted"
        )
    left, drawn = dict(sorted(wrong.items())), list[str]()
    while len(drawn) < count:
        counted = [float(number) for number in left.values()]
        weights = counted if distractors is Distractors.FREQUENCY else [1.0] * len(left)
        text = chooser.choices(list(left), weights)[0]
        drawn.append(text)
        taken = text.strip().lower()
        left = {other: n for other, n in left.items() if other.strip().lower() != taken}
    return drawn


def _ask(statement: Statement, drawn: list[str], chooser: random.Random) -> Question:
    answer = chooser.randrange(len(drawn) + 1)
    texts = [*drawn[:answer], statement.tail, *drawn[answer:]]
    groups = {Split.TARGET: Group.TARGET, Split.NEAR_HELDOUT: Group.NEAR}
    question = Question(
        id=statement.fact.key,
        prompt=statement.prompt,
        choices=tuple(texts),
        answer=answer,
        group=groups.get(statement.split, Group.OTHER),
        fact=statement.fact.key,
    )
    return check(question, f"fact {statement.fact.key}")
