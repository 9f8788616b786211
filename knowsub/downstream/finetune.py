"""The finetuning loop of one model: early stopping on validation, checkpoints, resume."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from knowsub.artifacts import read_checksummed, write_checksummed
from knowsub.downstream.encode import EncodedQuestions
from knowsub.downstream.model import ChoiceModel
from knowsub.lm.schedule import warmup_stable_decay

VALIDATION = "validation"
"""Name of the split that decides; all others are only watched."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a run trains."""

    steps: int
    """Optimizer steps at most."""
    batch: int
    """Questions per step."""
    head_lr: float
    """Peak learning rate of the head."""
    model_lr: float
    """Peak learning rate of everything else."""
    evaluate_every: int
    """Steps between evaluations [steps]."""
    patience: int
    """Evaluations without progress after which the run stops."""
    seed: int
    """Seed of the order of the questions."""


@dataclass(frozen=True)
class EvalPoint:
    """One point of a learning curve."""

    step: int
    """Optimizer steps taken."""
    split: str
    """`validation`, or a group of the test questions."""
    accuracy: float
    """Share of questions answered correctly [fraction]."""
    loss: float
    """Mean NLL of the right choice among the choices [nats]."""


@dataclass
class Outcome:
    """The result of a run; also its progress so far."""

    step: int = 0
    """Optimizer steps taken."""
    best_step: int = -1
    """Steps taken at the best evaluation on validation."""
    accuracy: float = -1.0
    """Validation accuracy there [fraction]."""
    loss: float = float("inf")
    """Validation loss there [nats]."""
    evals_since_best: int = 0
    """Evaluations since."""
    points: list[EvalPoint] = field(default_factory=list)
    """The learning curves."""
    correct: dict[str, list[bool]] = field(default_factory=dict)
    """Split -> for each question whether it was answered correctly at the best evaluation."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Outcome:
        """Return the outcome that `dataclasses.asdict` turned into plain values."""
        points = [EvalPoint(**point) for point in values["points"]]
        return cls(**{**values, "points": points})


@torch.no_grad()
def evaluate_choices(
    model: ChoiceModel, encoded: EncodedQuestions
) -> tuple[Bool[Tensor, " question"], Float[Tensor, " question"]]:
    """Return which questions a model answers correctly, and the right choices' NLL [nats]."""
    logits = torch.cat([model.logits(encoded[index]) for index in encoded.chunks(256)])
    loss = nn.functional.cross_entropy(logits, encoded.answer, reduction="none")
    return (logits.argmax(dim=1) == encoded.answer).cpu(), loss.cpu()


def finetune(
    model: ChoiceModel,
    train: EncodedQuestions,
    splits: Mapping[str, EncodedQuestions],
    schedule: Schedule,
    on_points: Callable[[list[EvalPoint]], None],
    checkpoint: Path | None = None,
    save_seconds: float = 30.0,
) -> Outcome:
    """Train a model on questions and return what it answers at its best.

    The best evaluation has the highest validation accuracy, and among equals the lowest loss. The
    other splits are only watched. The model ends with its best weights.

    Args:
        model: What is trained, in place.
        train: The training questions.
        splits: Split -> questions evaluated; `validation` decides.
        schedule: How long and how fast.
        on_points: Called with the points of every evaluation.
        checkpoint: File to resume from and to write; None for neither.
        save_seconds: Least time between checkpoints [s]; a run that ends sooner writes none.

    Returns:
        The outcome, the same whether or not the run was interrupted.

    Raises:
        RuntimeError: If a weight that stays zero is not zero at an evaluation.
        ValueError: If the checkpoint is corrupt or of another run.
    """
    run, saved = _TrainingRun(model, splits, schedule), time.monotonic()
    if checkpoint is None or not run.restore(checkpoint):
        on_points(run.evaluate())
    order = _question_order(len(train), schedule).to(train.answer.device)
    for step in range(run.outcome.step, schedule.steps):
        if run.outcome.evals_since_best >= schedule.patience:
            break
        run.train_step(train[order[step]])
        if (step + 1) % schedule.evaluate_every and step + 1 < schedule.steps:
            continue
        on_points(run.evaluate())
        if checkpoint is not None and time.monotonic() - saved >= save_seconds:
            run.save(checkpoint)
            saved = time.monotonic()
    run.restore_best()
    return run.outcome


def _question_order(questions: int, schedule: Schedule) -> Int[Tensor, "step batch"]:
    """Return which questions every step sees: whole passes, each in a new order."""
    generator = torch.Generator().manual_seed(schedule.seed)
    wanted = schedule.steps * schedule.batch
    passes = -(-wanted // questions)
    order = torch.cat([torch.randperm(questions, generator=generator) for _ in range(passes)])
    return order[:wanted].view(schedule.steps, schedule.batch)


class _TrainingRun:
    """The state of one run: weights, optimizer, best evaluation so far."""

    def __init__(
        self, model: ChoiceModel, splits: Mapping[str, EncodedQuestions], schedule: Schedule
    ) -> None:
        self.outcome = Outcome()
        self._model, self._splits, self._schedule = model, splits, schedule
        self._trained: list[Tensor] = [model.head.weight, *model.trained]
        self._best = [tensor.detach().clone() for tensor in self._trained]
        groups = [
            {"params": [model.head.weight], "peak": schedule.head_lr},
            {"params": model.trained, "peak": schedule.model_lr},
        ]
        self._optimizer = torch.optim.AdamW(groups[: 2 if model.trained else 1], weight_decay=0.0)

    def train_step(self, questions: EncodedQuestions) -> None:
        """Take one optimizer step."""
        # the learning rate rises over the first tenth of the steps, then falls to 0
        factor = warmup_stable_decay(self.outcome.step, self._schedule.steps, 0.1, 0.9)
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        loss = nn.functional.cross_entropy(self._model.logits(questions), questions.answer)
        self._optimizer.zero_grad()
        loss.backward()
        self._model.constraint.zero_gradients()
        if self._model.trained:
            nn.utils.clip_grad_norm_(self._model.trained, 1.0)
        self._optimizer.step()
        self._model.constraint.zero_weights()
        self.outcome.step += 1

    def evaluate(self) -> list[EvalPoint]:
        """Return the points of this step; remember answers and weights if it is the best so far."""
        outcome = self.outcome
        self._model.constraint.check()
        results = {
            split: evaluate_choices(self._model, encoded) for split, encoded in self._splits.items()
        }
        points = [
            EvalPoint(outcome.step, split, float(correct.float().mean()), float(loss.mean()))
            for split, (correct, loss) in results.items()
        ]
        outcome.points.extend(points)
        validation = next(point for point in points if point.split == VALIDATION)
        outcome.evals_since_best += 1
        lower = validation.loss < outcome.loss - 1e-3  # smaller gains are no progress
        tie = validation.accuracy == outcome.accuracy
        if validation.accuracy > outcome.accuracy or (tie and lower):
            outcome.best_step, outcome.evals_since_best = outcome.step, 0
            outcome.accuracy, outcome.loss = validation.accuracy, validation.loss
            outcome.correct = {split: correct.tolist() for split, (correct, _) in results.items()}
            self._best = [tensor.detach().clone() for tensor in self._trained]
        return points

    @torch.no_grad()
    def restore_best(self) -> None:
        """Put the best weights in place."""
        for tensor, value in zip(self._trained, self._best, strict=True):
            tensor.copy_(value)

    def _weights(self) -> dict[str, Tensor]:
        """Return the weights, now and at the best evaluation, under their checkpoint names."""
        return {
            f"{name}.{index}": tensor
            for name, tensors in (("trained", self._trained), ("best", self._best))
            for index, tensor in enumerate(tensors)
        }

    def save(self, path: Path) -> None:
        """Write the state of the run atomically (OSError: an older file is left as it was)."""
        moments = {
            f"{name}.{index}": tensor
            for index, state in self._optimizer.state_dict()["state"].items()
            for name, tensor in state.items()
        }
        arrays = {
            name: tensor.detach().cpu().float().numpy()
            for name, tensor in (self._weights() | moments).items()
        }
        write_checksummed(path, arrays, asdict(self.outcome))

    @torch.no_grad()
    def restore(self, path: Path) -> bool:
        """Resume from a written state; return whether there is one (ValueError if it is unfit)."""
        try:
            arrays, progress = read_checksummed(path)
        except FileNotFoundError:
            return False
        except ValueError as error:
            raise ValueError(f"{error}; delete it to start afresh") from None
        saved = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        for name, tensor in self._weights().items():
            if name not in saved or saved[name].shape != tensor.shape:
                raise ValueError(f"{path}: belongs to another run; delete it to start afresh")
            tensor.copy_(saved[name])
        moments = {
            index: {
                name: saved[f"{name}.{index}"]
                for name in ("step", "exp_avg", "exp_avg_sq")
                if f"{name}.{index}" in saved
            }
            for index in range(len(self._trained))
        }
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": moments})
        self.outcome = Outcome.from_json(progress)
        return True
