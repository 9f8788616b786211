"""The command `task`: questions about a target's facts, as lm-evaluation-harness reads them.

The questions are those of the stage `test`: every training prompt with its true object among
objects of the relation that are not true of its subject, drawn alike and in proportion to the facts
that have them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml

from knowsub.artifacts import atomic_write
from knowsub.cli.app import Result
from knowsub.cli.checks import task_name
from knowsub.evaluation.objects import DRAWS, relation_objects
from knowsub.kg.facts import Role, Split, Statement, read_statements


def write_task(statements: Path, out: Path, distractors: int, seed: int) -> Result:
    """Write `knowsub_<target>.yaml` and its questions as JSON Lines; return their names.

    `statements` is what the stage `verbalize` wrote of a target. Raises FileNotFoundError or
    ValueError if it is no such file or has no target fact to ask about.
    """
    rows = questions(read_statements(statements), distractors, seed)
    name = task_name(statements)
    data = out.resolve() / f"{name}.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    atomic_write(data, "".join(lines).encode())
    text = yaml.safe_dump(task(name, data), sort_keys=False, allow_unicode=True)
    atomic_write(out / f"{name}.yaml", text.encode())
    return {"task": name, "folder": str(out), "questions": len(rows)}


def questions(statements: list[Statement], distractors: int, seed: int) -> list[dict[str, Any]]:
    """Return the questions about the target of a knowledge graph, two per training prompt.

    Prompts of one fact share their distractors, of which all questions have as many. The true
    object's place goes around, so that a model for which all are alike is right by chance. Raises
    ValueError if there is no target fact, or no object that is untrue of its subject.
    """
    asked = [s for s in statements if s.split == Split.TARGET and s.role == Role.TRAIN]
    if not asked:
        raise ValueError("no statement states a target fact in a training family")
    objects, generator = relation_objects(statements), torch.Generator().manual_seed(seed)
    facts = dict.fromkeys(statement.fact for statement in asked)
    drawn = objects.draw_for(facts, distractors, generator)
    rows: list[dict[str, Any]] = []
    for statement in asked:
        for draw, wrong in zip(DRAWS, drawn[statement.fact], strict=True):
            choices, place = [objects.texts[i] for i in wrong], len(rows) % (len(wrong) + 1)
            choices.insert(place, statement.object)
            made = {"family": statement.family, "draw": draw, "fact": statement.fact.key}
            rows.append({"prompt": statement.prompt, "choices": choices, "answer": place} | made)
    return rows


def task(name: str, data: Path) -> dict[str, Any]:
    """Return the configuration of a multiple-choice task whose questions lie in a file."""
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "num_fewshot": 0,
        "doc_to_text": "prompt",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": "",  # the space before a word belongs to the choice
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }


def task_lines(result: Result) -> list[str]:
    """Return the text of `write_task`'s result: how the task is run."""
    return [
        f"{result['folder']}: {result['questions']} questions; "
        f"lm_eval --include_path {result['folder']} --tasks {result['task']}"
    ]
