"""Finetuning in a world whose answer is known: one weight holds one fact."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from knowsub.architectures import maskable_matrices
from knowsub.downstream.finetune import EvalPoint
from knowsub.downstream.model import FinetuneContext
from knowsub.downstream.options import Adaptation, FinetuneOptions, RemovedWeights
from knowsub.downstream.question_files import build_task
from knowsub.downstream.questions import Task
from knowsub.downstream.runs import (
    FinetuneRun,
    Results,
    answer_table,
    load_masks,
    planned_runs,
    run_all,
    summarize,
    write_results,
)
from knowsub.masks.mask import Mask, save_mask
from tests.downstream.setting import options
from tests.evaluation.setting import built_model, fact_mask, statements, tokenizer

A_SUBJECTS = [f"a{index}" for index in range(5)]


def world(
    **changes: object,
) -> tuple[FinetuneContext, dict[str, Mask | None], Task, FinetuneOptions]:
    """The world of the facts a, with them removed, and with as many unused weights removed."""
    model = built_model()
    unused = {
        matrix.name: torch.zeros(matrix.shape, dtype=torch.bool)
        for matrix in maskable_matrices(model)
    }
    unused["blocks.1.q"].view(-1)[:5] = True
    masks = {
        "original": None,
        "remaining": fact_mask(model, A_SUBJECTS),
        "random": Mask(unused, "b"),
    }
    chosen = options(steps=8, **changes)
    rows = [each for each in statements("a") if each.fact.subject_words[0] != "b"]
    return (
        FinetuneContext(model, tokenizer(), masks, chosen),
        masks,
        build_task(rows, chosen),
        chosen,
    )


def run_world(folder: Path, **changes: object) -> tuple[Results, Task, FinetuneOptions]:
    context, masks, task, chosen = world(**changes)
    return run_all(context, masks, task, chosen, folder, lambda run, points: None), task, chosen


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Task, FinetuneOptions]:
    return run_world(
        tmp_path_factory.mktemp("results"), adaptations=[Adaptation.HEAD, Adaptation.LORA]
    )


def test_a_head_finds_what_a_model_knows_and_not_what_was_removed(
    results: tuple[Results, Task, FinetuneOptions],
) -> None:
    table = answer_table(results[0])
    for model in ("original", "random"):
        assert table["head", model]["target"].mean() == 1.0
        assert table["none", model]["overall"].mean() == 1.0
    answers = [each.answer for each in results[1].test if each.group == "target"]
    gone = table["none", "remaining"]["target"]
    assert gone.tolist() == [[float(answer == 0) for answer in answers]]  # all choices score alike
    assert table["head", "remaining"]["target"].mean() < 0.5
    assert table["head", "remaining"]["other"].mean() == 1.0


def test_every_run_is_done_once_and_named(results: tuple[Results, Task, FinetuneOptions]) -> None:
    names = [run.name for run in results[0].outcomes]
    assert names[:3] == ["head-original-0", "head-remaining-0", "head-random-0"]
    assert len(names) == len(set(names)) == 6


def test_the_metrics_have_the_names_of_the_summary(
    results: tuple[Results, Task, FinetuneOptions],
) -> None:
    found = summarize(*results)
    assert found["metrics"]["random_head_target_accuracy"] == 1.0
    assert found["metrics"]["original_lora_neighborhood_accuracy"] == 1.0
    assert found["metrics"]["head_other_accuracy"] == 1.0
    assert found["questions"]["target"] == 5
    assert found["questions"]["chance"] == pytest.approx(1 / 3)
    row = next(
        each
        for each in found["comparisons"]
        if (each["adaptation"], each["group"]) == ("head", "target")
    )
    assert row["difference"] == found["metrics"]["head_target_accuracy"] - 1.0
    assert row["only_remaining"] == 0


def test_results_and_curves_are_written(
    results: tuple[Results, Task, FinetuneOptions], tmp_path: Path
) -> None:
    write_results(tmp_path / "new", *results, {"target": "a", "seed": 0})
    lines = (tmp_path / "new" / "curves.csv").read_text().splitlines()
    assert lines[0] == "adaptation,model,seed,step,split,accuracy,loss"
    points = sum(len(outcome.points) for outcome in results[0].outcomes.values())
    assert len(lines) == 1 + points
    assert lines[1].startswith("head,original,0,0,validation,")
    assert '"target": "a"' in (tmp_path / "new" / "results.json").read_text()


def test_finished_runs_are_not_done_again(tmp_path: Path) -> None:
    context, masks, task, chosen = world(adaptations=[Adaptation.HEAD])
    first = run_all(context, masks, task, chosen, tmp_path, lambda run, points: None)
    (tmp_path / "head-random-0.json").unlink()
    calls: list[tuple[FinetuneRun, int]] = []

    def count(run: FinetuneRun, points: list[EvalPoint]) -> None:
        calls.append((run, len({point.step for point in points})))

    again = run_all(context, masks, task, chosen, tmp_path, count)
    assert again == first
    assert [steps for run, steps in calls if run.model != "random"] == [5, 5]
    assert [steps for run, steps in calls if run.model == "random"] == [1] * 5


def test_another_process_may_delete_the_folder_of_the_runs_meanwhile(tmp_path: Path) -> None:
    context, masks, task, chosen = world(adaptations=[Adaptation.HEAD])
    folder = tmp_path / "runs"
    left_alone = run_all(context, masks, task, chosen, tmp_path / "own", lambda run, points: None)

    def delete(run: FinetuneRun, points: list[EvalPoint]) -> None:
        shutil.rmtree(folder, ignore_errors=True)

    assert run_all(context, masks, task, chosen, folder, delete) == left_alone


def test_target_questions_that_are_trained_on_are_not_tested(tmp_path: Path) -> None:
    changes = {"target_share": 0.6, "adaptations": [Adaptation.HEAD]}
    found, task, _ = run_world(tmp_path, removed_weights=RemovedWeights.FREE, **changes)
    assert len(found.outcomes[FinetuneRun(Adaptation.HEAD, "remaining", 0)].correct["target"]) == 2
    assert sum(each.group == "target" for each in task.train + task.validation) == 3


def test_runs_are_ordered_by_adaptation_and_repeat() -> None:
    chosen = options(repeats=2, adaptations=[Adaptation.FULL, Adaptation.HEAD])
    names = [run.name for run in planned_runs({"original": None, "random": None}, chosen)]
    assert names[:3] == ["full-original-0", "full-random-0", "full-original-1"]
    assert len(names) == 8


def test_masks_are_read_and_those_of_another_model_refused(tmp_path: Path) -> None:
    mask = fact_mask(built_model(), A_SUBJECTS)
    save_mask(mask, tmp_path / "mask.safetensors")
    save_mask(mask, tmp_path / "random.safetensors")
    assert list(load_masks(tmp_path, tmp_path, "built")) == [
        "original",
        "remaining",
        "random",
    ]
    with pytest.raises(ValueError, match="the mask belongs to model built"):
        load_masks(tmp_path, tmp_path, "another")
