"""The downstream task that the options describe: questions made from facts, or read from files.

One object per line:
`{"id": "...", "question": {"question_concept": "bag", "stem": "Where ...?",
"choices": [{"label": "A", "text": "bank"}, ...]}, "answerKey": "A"}`.
The flat shape that the `datasets` library serves is read as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from knowsub.artifacts import json_rows, text_field
from knowsub.downstream.options import FinetuneOptions, QuestionSource
from knowsub.downstream.questions import (
    Group,
    Question,
    Task,
    check,
    divide,
    questions_from_facts,
    tie,
)
from knowsub.kg.facts import Split, Statement

PUBLISHED = ("train_rand_split.jsonl", "dev_rand_split.jsonl")
OWN = ("train.jsonl", "test.jsonl")
HUB = "tau/commonsense_qa"


def read_questions(path: Path, limit: int = 0) -> list[Question]:
    """Return the questions of a JSONL file, all in group `other`.

    Args:
        path: The file.
        limit: Most questions read, the first ones; 0 = all.

    Returns:
        The questions in order.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is no question (file and line are named) or there is no line at all.
    """
    return _collect(json_rows(path), str(path), limit)


def read_folder(folder: Path, limit: int = 0) -> tuple[list[Question], list[Question]]:
    """Return the training and the test questions of a folder.

    The files are `train.jsonl` and `test.jsonl`, or CommonsenseQA's published training split and,
    as test, its published validation split: the published test split has no answers.

    Args:
        folder: The folder.
        limit: Most questions read of each file; 0 = all.

    Returns:
        Training and test questions.

    Raises:
        FileNotFoundError: If neither pair of files is there.
        ValueError: As in `read_questions`.
    """
    for names in (OWN, PUBLISHED):
        if all((folder / name).is_file() for name in names):
            train, test = (read_questions(folder / name, limit) for name in names)
            return train, test
    pairs = " or ".join(" and ".join(names) for names in (OWN, PUBLISHED))
    raise FileNotFoundError(f"{folder}: needs {pairs}")


def read_hub(limit: int = 0) -> tuple[list[Question], list[Question]]:
    """Return CommonsenseQA's training split and, as test, its validation split, from the hub.

    Args:
        limit: Most questions read of each split; 0 = all.

    Returns:
        Training and test questions.

    Raises:
        ValueError: If the data set cannot be had or a row is no question.
    """
    from datasets import load_dataset  # seconds to import, and needed here only

    splits: list[list[Question]] = []
    for name in ("train", "validation"):
        try:
            rows = load_dataset(HUB, split=name)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"finetune.questions: {HUB} cannot be had ({reason})") from None
        named = ((f"{HUB} {name} row {number}", row) for number, row in enumerate(rows))
        splits.append(_collect(named, f"{HUB} {name}", limit))
    return splits[0], splits[1]


def read_ids(path: Path) -> set[str]:
    """Return the question identifiers of a JSON list of facts, or of a JSONL file of them.

    Args:
        path: File whose entries are objects with an `id`, such as the reference's facts behind
            CommonsenseQA questions.

    Returns:
        The identifiers.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not JSON, or an entry has no `id`; the place is named.
    """
    return {text_field(row, ["id"], place) for place, row in json_rows(path)}


def _collect(
    rows: Iterable[tuple[str, Mapping[str, Any]]], source: str, limit: int
) -> list[Question]:
    found: dict[str, Question] = {}
    for place, row in rows:
        question = _question(row, place)
        if question.id in found:
            raise ValueError(f"{place}: id {question.id!r} stands twice")
        found[question.id] = question
        if len(found) == limit:
            break
    if not found:
        raise ValueError(f"{source}: the split is empty")
    return list(found.values())


def _question(row: Mapping[str, Any], place: str) -> Question:
    nested = row.get("question")
    body = nested if isinstance(nested, Mapping) else {**row, "stem": nested}
    labels, texts = _choices(body.get("choices"), place)
    key, name = row.get("answerKey"), text_field(row, ["id"], place)
    stem = text_field(body, ["stem"], place)
    if not key:
        raise ValueError(f"{place}: `answerKey` is missing (published test splits have none)")
    if key not in labels:
        raise ValueError(f"{place}: answerKey {key!r} is not among the labels {', '.join(labels)}")
    answer = labels.index(key)
    concept = str(body.get("question_concept") or name)
    question = Question(
        id=name,
        prompt=f"Q: {stem}\nA:",
        choices=tuple(" " + text if text else "" for text in texts),
        answer=answer,
        group=Group.OTHER,
        fact=f"{concept}|answer|{texts[answer]}",
    )
    return check(question, place)


def _choices(listed: Any, place: str) -> tuple[list[str], list[str]]:
    """Return labels and texts of choices given as objects or, flat, as two lists."""
    if isinstance(listed, Mapping):
        labels, texts = list(listed.get("label", [])), list(listed.get("text", []))
    elif isinstance(listed, list) and all(isinstance(one, Mapping) for one in listed):
        labels = [one.get("label") for one in listed]
        texts = [one.get("text") for one in listed]
    else:
        raise ValueError(f"{place}: `choices` is missing")
    if len(labels) != len(texts) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"{place}: every choice needs a `label` and a `text`")
    if len(set(labels)) != len(labels):
        raise ValueError(f"{place}: a choice's label stands twice in {', '.join(labels)}")
    return labels, [str(text or "").strip() for text in texts]


DIVISION = 0
"""Seed of distractors and division: every mask of a target is asked the same questions."""


def build_task(statements: Sequence[Statement], options: FinetuneOptions) -> Task:
    """Return the questions about one target KG, divided.

    Args:
        statements: All statements of the target KG.
        options: What the user chose.

    Returns:
        The task; questions of files are tied to target facts by identifier, or by head and tail.

    Raises:
        FileNotFoundError: If a file of questions is missing.
        ValueError: If a question is impossible (file and line are named) a split is empty,
            or no test question asks about a target fact.
    """
    if options.questions is QuestionSource.FACTS:
        pool, test = questions_from_facts(
            statements, options.template_family, options.choices, options.distractors, DIVISION
        )
    else:
        targets = [each.fact for each in statements if each.split is Split.TARGET]
        ids = read_ids(Path(options.target_questions)) if options.target_questions else set()
        read = (
            read_folder(Path(options.question_folder), options.max_questions)
            if options.question_folder
            else read_hub(options.max_questions)
        )
        pool, test = (tie(questions, targets, ids) for questions in read)
    task = divide(pool, test, options.target_share, options.validation_share, DIVISION)
    if not any(question.group is Group.TARGET for question in task.test):
        raise ValueError(
            f"finetune.questions: none of the {len(task.test)} test questions asks about a target "
            "fact; name them with finetune.target_questions, or lower finetune.target_share"
        )
    return task
