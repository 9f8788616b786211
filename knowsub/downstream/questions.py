"""Multiple-choice questions: made from facts, and divided into splits that share no fact.

A question asks about one fact. Training, validation and test never share a fact, so test accuracy
measures generalization: whether a model that learned to answer can use what it knows of facts it
was not asked about. With `target_share` above 0 a part of the target questions is trained on, and
the test asks whether relearning some of them brings back the others.

The prompt is a statement without its object ("A ziggurat is a kind of") and the choices are objects
of the same relation. The choices never stand in the prompt, where they would invite a shortcut, and
no distractor is also true, be it directly, by following the relation upwards, or of another sense
of the same word.

Questions about control facts draw their distractors among the objects of control facts. Were a
target object among them, it would only ever be wrong in training, and a head could learn to avoid
it whatever it knows. Drawn by frequency, every control object is right and wrong equally often.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from knowsub.downstream.options import Distractors
from knowsub.kg.facts import Fact, Split, Statement
from knowsub.kg.words import comparable


class Group(StrEnum):
    """How a question relates to the target KG."""

    TARGET = "target"
    NEIGHBORHOOD = "neighborhood"
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
    """How it relates to the target KG."""
    fact: str
    """Key of the fact it asks about, `subject|relation|object`."""


@dataclass(frozen=True, slots=True)
class Task:
    """Questions divided into splits that share no fact."""

    train: tuple[Question, ...]
    """Questions that are trained on."""
    validation: tuple[Question, ...]
    """Questions for early stopping."""
    test: tuple[Question, ...]
    """Questions that metrics are reported on, all groups together."""

    @property
    def chance(self) -> float:
        """Accuracy of guessing on the test questions [fraction]."""
        return sum(1 / len(question.choices) for question in self.test) / len(self.test)


def check_question(question: Question, place: str) -> Question:
    """Return a question unchanged; a ValueError names its place (file and line) if it is invalid.

    Invalid: an empty prompt, fewer than two choices, a choice that is missing or a duplicate, or an
    answer that is none of the choices.
    """
    texts = [comparable(choice) for choice in question.choices]
    if not question.prompt.strip():
        raise ValueError(f"{place}: the question is empty")
    if len(texts) < 2:
        raise ValueError(f"{place}: {len(texts)} choices; a question needs at least 2")
    for number, text in enumerate(texts, start=1):
        if not text:
            raise ValueError(f"{place}: choice {number} is missing")
        if text in texts[: number - 1]:
            raise ValueError(f"{place}: duplicate choice {text!r}")
    if not 0 <= question.answer < len(texts):
        raise ValueError(f"{place}: answer {question.answer} is outside 0 to {len(texts) - 1}")
    return question


def mark_targets(
    questions: Iterable[Question], facts: Iterable[Fact], ids: Collection[str] = ()
) -> list[Question]:
    """Return questions with group `target` where they ask about a target fact, else `other`.

    They do if their id is among `ids`, or their subject and object words are a target fact's.
    """
    pairs = {(_normalize(fact.subject_words), _normalize(fact.object_words)) for fact in facts}
    marked = []
    for question in questions:
        subject, _, rest = question.fact.partition("|")
        pair = _normalize(subject), _normalize(rest.rpartition("|")[2])
        is_target = question.id in ids or pair in pairs
        marked.append(replace(question, group=Group.TARGET if is_target else Group.OTHER))
    return marked


def _normalize(words: str) -> str:
    return comparable(words.replace("_", " "))


def split_questions(
    pool: Sequence[Question],
    test: Sequence[Question],
    target_share: float,
    validation_share: float,
    seed: int,
) -> Task:
    """Return a task: a pool split into training and validation, disjoint in facts from the test.

    Target questions of the pool that are not trained on are tested. Questions of the pool about a
    fact that is tested are left out.

    Args:
        pool: Questions that may be trained on.
        test: Questions that are always tested.
        target_share: Share of the pool's target facts that is trained on [fraction].
        validation_share: Share of the pool's facts used for validation [fraction].
        seed: Seed of the split.

    Returns:
        The task; the same arguments give the same one.

    Raises:
        ValueError: If a split is empty.
    """
    generator = random.Random(seed)
    targets = [question for question in pool if question.group is Group.TARGET]
    trained = _sample({question.fact for question in targets}, target_share, generator)
    tested = (*test, *(question for question in targets if question.fact not in trained))
    tested_facts = {question.fact for question in tested}
    rest = [question for question in pool if question.fact not in tested_facts]
    validated = _sample({question.fact for question in rest}, validation_share, generator)
    task = Task(
        train=tuple(question for question in rest if question.fact not in validated),
        validation=tuple(question for question in rest if question.fact in validated),
        test=tested,
    )
    for name in ("train", "validation", "test"):
        if not getattr(task, name):
            raise ValueError(f"the {name} split of the questions is empty")
    return task


def _sample(facts: set[str], share: float, generator: random.Random) -> set[str]:
    order = sorted(facts)
    generator.shuffle(order)
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

    Control and neighborhood facts that mask training never used are only tested. Neighborhood facts
    that it did use take no part: their words are the target's.

    Args:
        statements: All statements of one target KG.
        family: Template family whose prompts ask.
        choices: Choices per question.
        distractors: How wrong choices are drawn among the relation's objects.
        seed: Seed of the draw.

    Returns:
        The pool for `split_questions` and the test questions.

    Raises:
        ValueError: If no statement is of the family, or a fact has too few possible distractors.
    """
    likeliest: dict[str, Statement] = {}  # a fact may be stated in several wordings of a family
    for statement in statements:
        if statement.family == family:
            other = likeliest.setdefault(statement.fact.key, statement)
            if statement.nll_or_inf < other.nll_or_inf:
                likeliest[statement.fact.key] = statement
    asked = list(likeliest.values())
    if not asked:
        known = ", ".join(sorted({statement.family for statement in statements})) or "none"
        raise ValueError(
            f"finetune.template_family: no statement of family {family!r}; there are {known}"
        )
    facts = {statement.fact.key: statement.fact for statement in statements}
    true = _true_objects(list(facts.values()))
    objects = _object_counts(asked)
    pool: list[Question] = []
    test: list[Question] = []
    for statement in asked:
        if statement.split is Split.NEIGHBORHOOD_TRAIN:
            continue
        fact, control = statement.fact, statement.split in CONTROL
        generator = random.Random(f"{seed}|{fact.key}")
        wrong = {
            text: count
            for text, count in objects[fact.relation, control].items()
            if comparable(text) not in true[fact.relation, comparable(fact.subject_words)]
        }
        drawn = _draw_distractors(wrong, choices - 1, distractors, generator, fact)
        question = _question(statement, drawn, generator)
        (test if statement.split in TEST else pool).append(question)
    return pool, test


def _object_counts(asked: Iterable[Statement]) -> dict[tuple[str, bool], Counter[str]]:
    """Return (relation, whether of control facts only) -> objects and how many facts have them."""
    counts: dict[tuple[str, bool], Counter[str]] = defaultdict(Counter)
    for statement in asked:
        counts[statement.fact.relation, False][statement.object] += 1
        if statement.split in CONTROL:
            counts[statement.fact.relation, True][statement.object] += 1
    return counts


def _true_objects(facts: Sequence[Fact]) -> dict[tuple[str, str], set[str]]:
    """Return (relation, subject words) -> words of true objects, the relation followed upwards."""
    facts_of: dict[tuple[str, str], set[Fact]] = defaultdict(set)
    for fact in facts:
        facts_of[fact.relation, fact.subject].add(fact)
    true: dict[tuple[str, str], set[str]] = defaultdict(set)
    for fact in facts:
        words, frontier, seen = true[fact.relation, comparable(fact.subject_words)], [fact], {fact}
        while frontier:
            current = frontier.pop()
            words.add(comparable(current.object_words))
            new = facts_of.get((fact.relation, current.object), set()) - seen
            seen |= new
            frontier.extend(new)
    return true


def _draw_distractors(
    wrong: dict[str, int],
    count: int,
    distractors: Distractors,
    generator: random.Random,
    fact: Fact,
) -> list[str]:
    distinct = {comparable(text) for text in wrong}
    if len(distinct) < count:
        raise ValueError(
            f"finetune.choices: fact {fact.key} has {len(distinct)} possible distractors, "
            f"{count} are wanted"
        )
    left, drawn = dict(sorted(wrong.items())), list[str]()
    while len(drawn) < count:
        by_frequency = distractors is Distractors.FREQUENCY
        weights = [float(number) if by_frequency else 1.0 for number in left.values()]
        text = generator.choices(list(left), weights)[0]
        drawn.append(text)
        taken = comparable(text)
        left = {other: n for other, n in left.items() if comparable(other) != taken}
    return drawn


def _question(statement: Statement, drawn: list[str], generator: random.Random) -> Question:
    answer = generator.randrange(len(drawn) + 1)
    groups = {Split.TARGET: Group.TARGET, Split.NEIGHBORHOOD_HELDOUT: Group.NEIGHBORHOOD}
    question = Question(
        id=statement.fact.key,
        prompt=statement.prompt,
        choices=(*drawn[:answer], statement.object, *drawn[answer:]),
        answer=answer,
        group=groups.get(statement.split, Group.OTHER),
        fact=statement.fact.key,
    )
    return check_question(question, f"fact {statement.fact.key}")
