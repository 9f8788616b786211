"""The downstream task that the options describe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from knowsub.downstream.facts import questions_from_facts
from knowsub.downstream.options import FinetuneOptions, Source
from knowsub.downstream.questions import Group, Task, divide, tie
from knowsub.downstream.readers import read_folder, read_hub, read_ids
from knowsub.kg.triple import Split, Statement

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
    if options.questions is Source.FACTS:
        pool, test = questions_from_facts(
            statements, options.family, options.choices, options.distractors, DIVISION
        )
    else:
        targets = [each.fact for each in statements if each.split is Split.TARGET]
        ids = read_ids(Path(options.target_questions)) if options.target_questions else set()
        read = (
            read_folder(Path(options.folder), options.limit)
            if options.folder
            else read_hub(options.limit)
        )
        pool, test = (tie(questions, targets, ids) for questions in read)
    task = divide(pool, test, options.target_share, options.validation_share, DIVISION)
    if not any(question.group is Group.TARGET for question in task.test):
        raise ValueError(
            f"finetune.questions: none of the {len(task.test)} test questions asks about a target "
            "fact; name them with finetune.target_questions, or lower finetune.target_share"
        )
    return task
