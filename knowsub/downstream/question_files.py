"""The downstream task that the options describe: questions made from facts, or read from files.

A file of questions is JSON Lines in CommonsenseQA's format:
`{"id": "...", "question": {"question_concept": "bag", "stem": "Where ...?",
"choices": [{"label": "A", "text": "bank"}, ...]}, "answerKey": "A"}`.
The flat shape that the `datasets` library serves is read as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from knowsub.downstream.options import FinetuneOptions, QuestionSource
from knowsub.downstream.questions import (
    Group,
    Question,
    Task,
    check_question,
    mark_targets,
    questions_from_facts,
    split_questions,
)
from knowsub.kg.facts import Split, Statement
from knowsub.kg.rows import json_rows, text_field

SEED = 0
"""Seed of distractors and splits: every mask of a target is asked the same questions."""


def build_task(statements: Sequence[Statement], options: FinetuneOptions) -> Task:
    """Return the questions about one target KG, split.

    Args:
        statements: All statements of the target KG.
        options: Section `finetune` of the parameters.

    Returns:
        The task; questions of files are matched to target facts by id, or by subject and object.

    Raises:
        FileNotFoundError: If a file of questions is missing.
        ValueError: If a question is invalid (file and line are named), a split is empty, or no test
            question asks about a target fact.
    """
    if options.questions is QuestionSource.FACTS:
        pool, test = questions_from_facts(
            statements, options.template_family, options.choices, options.distractors, SEED
        )
    else:
        targets = [each.fact for each in statements if each.split is Split.TARGET]
        ids = read_ids(Path(options.target_questions)) if options.target_questions else set()
        read = (
            read_folder(Path(options.question_folder), options.max_questions)
            if options.question_folder
            else read_commonsenseqa(options.max_questions)
        )
        pool, test = (mark_targets(questions, targets, ids) for questions in read)
    task = split_questions(pool, test, options.target_share, options.validation_share, SEED)
    if not any(question.group is Group.TARGET for question in task.test):
        raise ValueError(
            f"finetune.questions: none of the {len(task.test)} test questions asks about a target "
            "fact; name them with finetune.target_questions, or lower finetune.target_share"
        )
    return task


def read_folder(folder: Path, limit: int = 0) -> tuple[list[Question], list[Question]]:
    """Return the training and the test questions of a folder, at most `limit` each (0 = all).

    The files are `train.jsonl` and `test.jsonl`, or CommonsenseQA's published training split and,
    as test, its published validation split: the published test split has no answers.
    """
    pairs = (("train.jsonl", "test.jsonl"), ("train_rand_split.jsonl", "dev_rand_split.jsonl"))
    for names in pairs:
        if all((folder / name).is_file() for name in names):
            train, test = (read_questions(folder / name, limit) for name in names)
            return train, test
    raise FileNotFoundError(f"{folder}: needs {' or '.join(' and '.join(pair) for pair in pairs)}")


def read_commonsenseqa(limit: int = 0) -> tuple[list[Question], list[Question]]:
    """Return CommonsenseQA's training split and, as test, its validation split, from the hub."""
    from datasets import load_dataset  # seconds to import, and needed here only

    hub = "tau/commonsense_qa"
    splits: list[list[Question]] = []
    for name in ("train", "validation"):
        try:
            rows = load_dataset(hub, split=name)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"finetune.questions: {hub} could not be downloaded ({reason})"
            ) from None
        numbered = ((f"{hub} {name} row {number}", row) for number, row in enumerate(rows))
        splits.append(_parse(numbered, f"{hub} {name}", limit))
    return splits[0], splits[1]


def read_questions(path: Path, limit: int = 0) -> list[Question]:
    """Return the questions of a JSON Lines file, at most `limit` (0 = all), in group `other`."""
    return _parse(json_rows(path), str(path), limit)


def read_ids(path: Path) -> set[str]:
    """Return the `id` of every entry of a JSON list or JSON Lines file; others are refused."""
    return {text_field(row, ["id"], place) for place, row in json_rows(path)}


def _parse(
    rows: Iterable[tuple[str, Mapping[str, Any]]], source: str, limit: int
) -> list[Question]:
    questions: dict[str, Question] = {}
    for place, row in rows:
        question = _question(row, place)
        if question.id in questions:
            raise ValueError(f"{place}: duplicate id {question.id!r}")
        questions[question.id] = question
        if len(questions) == limit:
            break
    if not questions:
        raise ValueError(f"{source}: the split is empty")
    return list(questions.values())


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
    return check_question(question, place)


def _choices(listed: Any, place: str) -> tuple[list[str], list[str]]:
    """Return labels and texts of choices given as objects or, flat, as two lists."""
    if isinstance(listed, Mapping):
        labels, texts = list(listed.get("label", [])), list(listed.get("text", []))
    elif isinstance(listed, list) and all(isinstance(choice, Mapping) for choice in listed):
        labels = [choice.get("label") for choice in listed]
        texts = [choice.get("text") for choice in listed]
    else:
        raise ValueError(f"{place}: `choices` is missing")
    if len(labels) != len(texts) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"{place}: every choice needs a `label` and a `text`")
    if len(set(labels)) != len(labels):
        raise ValueError(f"{place}: duplicate label in {', '.join(labels)}")
    return labels, [str(text or "").strip() for text in texts]
