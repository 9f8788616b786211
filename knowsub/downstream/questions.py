"""Multiple-choice questions: values, made from facts, and divided into splits that share no fact.

A question asks about one fact. Training, validation and test never share a fact, so test accuracy
speaks of generalisation: whether a model that learned to answer can use what it knows of facts it
was not asked about. With `target_share` above 0 a part of the target questions is trained on, and
the test asks whether relearning some of them brings back the others.

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
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from knowsub.downstream.options import Distractors
from knowsub.kg.facts import Fact, Split, Statement


class Group(StrEnum):
    """What a question has to do with the target KG."""

    TARGET = "target"
    NEAR = "near"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Question:
    """One multiple-choice question."""

    id: str
    """Identifier, unique within a task."""
    prompt: str
    """Text before a choice, without trailing space: `A ziggurat is a kind of`."""
    choices: tuple[str, ...]
    """Texts of the choices with their leading space; never listed in the prompt."""
    answer: int
    """0-based index of the right choice."""
    group: Group
    """What it has to do with the target KG."""
    fact: str
    """Key of the fact it asks about, `head|relation|tail`."""


@dataclass(frozen=True, slots=True)
class Task:
    """Questions divided into splits that share no fact."""

    train: tuple[Question, ...]
    """Questions that are trained on."""
    validation: tuple[Question, ...]
    """Questions for early stopping."""
    test: tuple[Question, ...]
    """Questions that figures are reported on, all groups together."""

    @property
    def chance(self) -> float:
        """Accuracy of guessing on the test questions [fraction]."""
        return sum(1 / len(question.choices) for question in self.test) / len(self.test)


def check(question: Question, place: str) -> Question:
    """Return a question unchanged, or refuse it.

    Args:
        question: The question.
        place: Where it stands, for the message: file and line.

    Returns:
        The same question.

    Raises:
        ValueError: If the prompt is empty, there are fewer than two choices, a choice is missing
            or stands twice, or the answer is none of the choices.
    """
    texts = [choice.strip().lower() for choice in question.choices]
    if not question.prompt.strip():
        raise ValueError(f"{place}: the question is empty")
    if len(texts) < 2:
        raise ValueError(f"{place}: {len(texts)} choices; a question needs at least 2")
    for number, text in enumerate(texts, start=1):
        if not text:
            raise ValueError(f"{place}: choice {number} is missing")
        if text in texts[: number - 1]:
            raise ValueError(f"{place}: choice {text!r} stands twice")
    if not 0 <= question.answer < len(texts):
        raise ValueError(f"{place}: answer {question.answer} is outside 0 to {len(texts) - 1}")
    return question


def ends(key: str) -> tuple[str, str]:
    """Return the head and the tail of a fact's key, as lower-case words."""
    head, _, rest = key.partition("|")
    tail = rest.rpartition("|")[2]
    return _plain(head), _plain(tail)


def _plain(words: str) -> str:
    return " ".join(words.replace("_", " ").lower().split())


def tie(
    questions: Iterable[Question], facts: Iterable[Fact], ids: Collection[str] = ()
) -> list[Question]:
    """Return questions with their group set by whether they ask about a target fact.

    Args:
        questions: Questions of any group.
        facts: The target facts; a question is tied to one if its head and tail words are the same.
        ids: Identifiers of questions that ask about target facts, where they are known.

    Returns:
        The questions in order, group `target` where tied, else `other`.
    """
    known = set(ids)
    pairs = {(_plain(fact.subject_words), _plain(fact.object_words)) for fact in facts}
    return [
        replace(question, group=Group.TARGET)
        if question.id in known or ends(question.fact) in pairs
        else replace(question, group=Group.OTHER)
        for question in questions
    ]


def divide(
    pool: Sequence[Question],
    test: Sequence[Question],
    target_share: float,
    validation_share: float,
    seed: int,
) -> Task:
    """Return a task: a pool divided into training and validation, apart from the test.

    Target questions of the pool that are not trained on are tested. Questions of the pool about a
    fact that is tested are left out.

    Args:
        pool: Questions that may be trained on.
        test: Questions that are tested whatever happens.
        target_share: Share of the pool's target facts that is trained on [fraction].
        validation_share: Share of the pool's facts kept for validation [fraction].
        seed: Seed of the division.

    Returns:
        The task; the same arguments give the same one.

    Raises:
        ValueError: If a split is empty.
    """
    shuffled = random.Random(seed)
    targets = [question for question in pool if question.group is Group.TARGET]
    trained = _draw({question.fact for question in targets}, target_share, shuffled)
    held = [question for question in targets if question.fact not in trained]
    tested = (*test, *held)
    facts = {question.fact for question in tested}
    rest = [question for question in pool if question.fact not in facts]
    kept = _draw({question.fact for question in rest}, validation_share, shuffled)
    task = Task(
        train=tuple(question for question in rest if question.fact not in kept),
        validation=tuple(question for question in rest if question.fact in kept),
        test=tested,
    )
    for name in ("train", "validation", "test"):
        if not getattr(task, name):
            raise ValueError(f"the {name} split of the questions is empty")
    return task


def _draw(keys: set[str], share: float, shuffled: random.Random) -> set[str]:
    order = sorted(keys)
    shuffled.shuffle(order)
    return set(order[: round(share * len(order))])


CONTROL = frozenset({Split.CONTROL_TRAIN, Split.CONTROL_VALIDATION, Split.CONTROL_HELDOUT})
TEST = frozenset({Split.CONTROL_HELDOUT, Split.NEIGHBORHOOD_HELDOUT})


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
        if statement.split is Split.NEIGHBORHOOD_TRAIN:
            continue
        fact, control = statement.fact, statement.split in CONTROL
        chooser = random.Random(f"{seed}|{fact.key}")
        wrong = {
            text: count
            for text, count in tails[fact.relation, control].items()
            if text.strip().lower() not in truth[fact.relation, fact.subject_words.lower()]
        }
        drawn = _facts_draw(wrong, choices - 1, distractors, chooser, fact)
        made[statement.split in TEST].append(_ask(statement, drawn, chooser))
    return made[False], made[True]


def _tails(asked: Iterable[Statement]) -> dict[tuple[str, bool], Counter[str]]:
    """Return (relation, whether for control facts) -> tails and how many facts have them."""
    tails: dict[tuple[str, bool], Counter[str]] = defaultdict(Counter)
    for statement in asked:
        tails[statement.fact.relation, False][statement.object] += 1
        if statement.split in CONTROL:
            tails[statement.fact.relation, True][statement.object] += 1
    return tails


def _truth(facts: Iterable[Fact]) -> dict[tuple[str, str], set[str]]:
    """Return (relation, head words) -> words that are true tails, followed upwards."""
    listed = list(facts)
    above: dict[tuple[str, str], set[Fact]] = defaultdict(set)
    for fact in listed:
        above[fact.relation, fact.subject].add(fact)
    truth: dict[tuple[str, str], set[str]] = defaultdict(set)
    for fact in listed:
        words, frontier, seen = truth[fact.relation, fact.subject_words.lower()], [fact], {fact}
        while frontier:
            current = frontier.pop()
            words.add(current.object_words.lower())
            new = above.get((fact.relation, current.object), set()) - seen
            seen |= new
            frontier.extend(sorted(new, key=lambda other: other.key))
    return truth


def _facts_draw(
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
    texts = [*drawn[:answer], statement.object, *drawn[answer:]]
    groups = {Split.TARGET: Group.TARGET, Split.NEIGHBORHOOD_HELDOUT: Group.NEAR}
    question = Question(
        id=statement.fact.key,
        prompt=statement.prompt,
        choices=tuple(texts),
        answer=answer,
        group=groups.get(statement.split, Group.OTHER),
        fact=statement.fact.key,
    )
    return check(question, f"fact {statement.fact.key}")
