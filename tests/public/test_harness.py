"""lm-evaluation-harness: our questions and a standard task, original beside remaining model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import knowsub
from knowsub.cli import app
from knowsub.cli.harness import questions
from knowsub.evaluation.choice import choice_accuracy, draw_choices
from knowsub.evaluation.context import EvalContext
from knowsub.evaluation.objects import relation_objects
from knowsub.kg.facts import write_statements
from knowsub.lm.identity import identity
from knowsub.masks.mask import Mask
from tests.evaluation.setting import (
    FAMILIES,
    N_OBJECTS,
    built_context,
    built_model,
    fact_mask,
    object_of,
    statements,
    tokenizer,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def test_the_questions_are_those_of_the_stage_test_with_the_true_object_anywhere() -> None:
    context = built_context()
    choices = draw_choices(
        context, relation_objects(context.statements), 4, torch.Generator().manual_seed(3)
    )
    rows = questions(list(context.statements), 4, 3)
    expected = [
        (statement.prompt, {choices.objects[index] for index in options.tolist()})
        for statement, draws in zip(choices.facts.statements, choices.options, strict=True)
        for options in draws
    ]
    assert [(row["prompt"], set(row["choices"])) for row in rows] == expected
    assert len(rows) == 5 * 2 * 2  # facts, training families, draws
    for row in rows:
        assert row["choices"][row["answer"]] == f" t{object_of(row['prompt'].split()[1])}"
    assert {row["answer"] for row in rows} == set(range(5))


def call(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["task", *map(str, words)])
    assert done.exit_code == code, done.output
    return done.output


def test_mistakes_of_the_command_are_said_at_once(tmp_path: Path) -> None:
    file, out = tmp_path / "a.jsonl", tmp_path / "tasks"
    write_statements(file, statements())
    assert "a: 20 questions; lm_eval --include_path" in call(file, "--out", out).replace(
        "tasks", "a"
    )
    assert "exists already" in call(file, "--out", out, code=1)
    assert "20 questions" in call(file, "--out", out, "--force")
    lines = call(tmp_path / "none.jsonl", "--out", file, code=1).splitlines()
    assert [line.split(": ")[0] for line in lines] == ["knowsub"] * 2
    assert "the stage verbalize writes it" in lines[0]
    assert "is a file; name a folder" in lines[1]
    file.write_text(file.read_text().replace('"target"', '"control_train"'))
    assert "no statement states a target fact" in call(file, "--out", out, "--force", code=1)


@pytest.fixture
def model() -> Any:
    """The built model with small random weights everywhere, so that no two answers tie."""
    model, generator = built_model(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


def accuracies(model: Any, mask: Mask, folder: Path, name: str) -> list[float]:
    """What the harness says of a task in a folder, of the original and the remaining model."""
    lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    tasks, words = TaskManager(include_path=str(folder), include_defaults=False), tokenizer()
    words.eos_token = "unk"  # the harness asks for a token to begin a text with
    evaluated = HFLM(pretrained=model, tokenizer=words, batch_size=16)

    def accuracy() -> float:
        found = lm_eval.simple_evaluate(
            evaluated, tasks=[name], task_manager=tasks, bootstrap_iters=0
        )
        return float(found["results"][name]["acc,none"])

    original = accuracy()
    with knowsub.ablated(model, mask):
        remaining = accuracy()
    assert accuracy() == original
    return [original, remaining]


def mask_of(model: Any, subjects: list[str]) -> Mask:
    return Mask(fact_mask(built_model(), subjects).bits, identity(model, None))


@pytest.mark.slow
def test_the_harness_and_the_stage_test_agree_on_the_targets_questions(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    mask, file = mask_of(model, ["a0", "a1", "a2"]), tmp_path / "a.jsonl"
    context: EvalContext = built_context(model=model)
    choices = draw_choices(
        context, relation_objects(context.statements), 4, torch.Generator().manual_seed(0)
    )
    expected = [float(choice_accuracy(context.upper, choices).mean())]
    with knowsub.ablated(model, mask):
        expected.append(float(choice_accuracy(context.upper, choices).mean()))
    write_statements(file, statements())
    call(file, "--out", tmp_path / "tasks", "--distractors", "4")
    assert accuracies(model, mask, tmp_path / "tasks", "knowsub_a") == pytest.approx(expected)
    assert expected[0] == 1.0
    assert expected[1] < 0.8


STANDARD = """
task: local_arc
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{choices.label.index(answerKey)}}"
doc_to_choice: "{{choices.text}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
"""The configuration of the harness's ARC tasks, with a file in place of the hub's data set."""


@pytest.mark.slow
def test_a_standard_task_is_asked_of_the_original_and_the_remaining_model(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    subjects = [f"{group}{index}" for group in "ab" for index in range(5)]
    letters = [chr(ord("A") + index) for index in range(N_OBJECTS)]
    rows = [
        {
            "id": subject,
            "question": f"{next(iter(FAMILIES))} {subject}",
            "choices": {"text": [f"t{i}" for i in range(N_OBJECTS)], "label": letters},
            "answerKey": letters[object_of(subject)],
        }
        for subject in subjects
    ]
    data = tmp_path / "arc.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "local_arc.yaml").write_text(STANDARD.replace("FILE", str(data)))
    original, remaining = accuracies(model, mask_of(model, subjects[:5]), tmp_path, "local_arc")
    assert original == 1.0
    assert 0.5 <= remaining <= 0.7  # the five of group b, and what is right by chance
