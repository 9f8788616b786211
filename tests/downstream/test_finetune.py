from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from knowsub.downstream.encode import EncodedQuestions
from knowsub.downstream.finetune import EvalPoint, Outcome, Schedule, finetune
from knowsub.downstream.model import ChoiceModel, FinetuneContext
from knowsub.downstream.options import Adaptation
from tests.architectures import tiny
from tests.downstream.setting import options, questions, random_mask, word_tokenizer

SCHEDULE = Schedule(
    steps=9, batch=4, head_lr=0.05, model_lr=0.02, evaluate_every=2, patience=9, seed=3
)


class StoppedError(Exception):
    """Stands for whatever ends a process."""


def prepared(
    adaptation: Adaptation,
) -> tuple[ChoiceModel, EncodedQuestions, dict[str, EncodedQuestions]]:
    model = tiny("gpt2")
    context = FinetuneContext(model, word_tokenizer(), {"remaining": random_mask(model)}, options())
    train, held = context.cache(context.encode(questions(10)), context.encode(questions(30)[20:]))
    choice_model = context.choice_model("remaining", adaptation, 0, train)
    return choice_model, train, {"validation": held, "target": held}


def run(
    adaptation: Adaptation,
    schedule: Schedule = SCHEDULE,
    checkpoint: Path | None = None,
    stop_at: int = -1,
) -> tuple[Outcome, list[torch.Tensor]]:
    choice_model, train, splits = prepared(adaptation)

    def watch(points: Sequence[EvalPoint]) -> None:
        if points[0].step == stop_at:
            raise StoppedError

    outcome = finetune(choice_model, train, splits, schedule, watch, checkpoint, save_seconds=0.0)
    trained = [choice_model.head.weight, *choice_model.trained]
    return outcome, [tensor.detach() for tensor in trained]


@pytest.mark.parametrize("adaptation", list(Adaptation))
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    adaptation: Adaptation, tmp_path: Path
) -> None:
    expected, weights = run(adaptation)
    checkpoint = tmp_path / "run.safetensors"
    with pytest.raises(StoppedError):
        run(adaptation, checkpoint=checkpoint, stop_at=6)
    found, resumed = run(adaptation, checkpoint=checkpoint)
    assert found == expected
    assert all(torch.equal(one, other) for one, other in zip(weights, resumed, strict=True))


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.safetensors"
    run(Adaptation.FULL, checkpoint=checkpoint)
    with pytest.raises(ValueError, match="belongs to another run"):
        run(Adaptation.LORA, checkpoint=checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"run\.safetensors"):
        run(Adaptation.FULL, checkpoint=checkpoint)


def test_every_evaluation_gives_a_point_of_every_split_and_the_last_step_is_one() -> None:
    outcome, _ = run(Adaptation.HEAD)
    steps = [0, 2, 4, 6, 8, 9]
    assert [point.step for point in outcome.points if point.split == "validation"] == steps
    assert [point.step for point in outcome.points if point.split == "target"] == steps
    assert len(outcome.correct["target"]) == 10


def test_the_best_evaluation_is_kept_and_a_run_without_progress_stops() -> None:
    still = Schedule(9, 4, 1e-12, 1e-12, 2, patience=2, seed=0)
    outcome, _ = run(Adaptation.FULL, still)
    assert (outcome.step, outcome.best_step) == (4, 0)
    outcome, _ = run(Adaptation.FULL)
    own = [point for point in outcome.points if point.split == "validation"]
    best = max(point.accuracy for point in own)
    assert outcome.accuracy == best
    chosen = next(point for point in own if point.step == outcome.best_step)
    assert (chosen.accuracy, chosen.loss) == (best, outcome.loss)
    assert sum(outcome.correct["validation"]) / 10 == pytest.approx(best)


def test_the_questions_can_be_memorized() -> None:
    choice_model, train, _ = prepared(Adaptation.FULL)
    schedule = Schedule(60, 10, 0.05, 0.02, 30, 9, 0)
    outcome = finetune(choice_model, train, {"validation": train}, schedule, lambda points: None)
    assert outcome.accuracy == 1.0
