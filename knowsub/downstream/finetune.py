"""The finetuning loop: early stopping on validation, checkpoints, resume."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from knowsub.artifacts import read_checksummed, write_checksummed
from knowsub.downstream.encode import Encoded
from knowsub.downstream.model import ChoiceHead, ZeroConstraint, features, pieces
from knowsub.downstream.options import Readout
from knowsub.lm.schedule import warmup_stable_decay

VALIDATION = "validation"
"""Name of the split that decides; all others are only watched."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a run trains."""

    steps: int
    """Optimiser steps at most."""
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
class ChoiceModel:
    """A model with a head, ready to be trained."""

    model: PreTrainedModel
    """The model, or its upper part where the questions carry trunk states."""
    head: ChoiceHead
    """The multiple-choice head."""
    trained: list[nn.Parameter]
    """Parameters trained beside the head's."""
    hold: ZeroConstraint
    """Weights that stay zero."""
    readout: Readout
    """What the head reads."""

    def logits(self, encoded: Encoded) -> Float[Tensor, "question choice"]:
        """Return the logit of every choice."""
        scores: Tensor = self.head(features(self.model, encoded, self.readout), encoded)
        return scores


@dataclass(frozen=True)
class EvalPoint:
    """One point of a learning curve."""

    step: int
    """Optimiser steps taken."""
    split: str
    """`validation`, or a group of the test questions."""
    accuracy: float
    """Share of questions answered rightly [fraction]."""
    loss: float
    """Mean NLL of the right choice among the choices [nats]."""


@dataclass
class Outcome:
    """What a run gave; also its progress so far."""

    step: int = 0
    """Optimiser steps taken."""
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
    """Split -> for each question whether it was answered rightly at the best evaluation."""

    @classmethod
    def restored(cls, values: Mapping[str, Any]) -> Outcome:
        """Return the outcome that `dataclasses.asdict` turned into plain values."""
        points = [EvalPoint(**point) for point in values["points"]]
        return cls(**{**values, "points": points})


@torch.no_grad()
def evaluate_choices(
    learner: ChoiceModel, encoded: Encoded, questions: int = 256
) -> tuple[Bool[Tensor, " question"], Float[Tensor, " question"]]:
    """Return which questions a learner answers rightly, and its loss on each.

    Args:
        learner: The learner.
        encoded: The questions.
        questions: Questions per forward pass.

    Returns:
        True where the right choice scored highest, and the NLL of the right choice among the
        choices [nats].
    """
    parts = [learner.logits(encoded[index]) for index in pieces(encoded, questions)]
    logits = torch.cat(parts)
    loss = nn.functional.cross_entropy(logits, encoded.answer, reduction="none")
    return (logits.argmax(dim=1) == encoded.answer).cpu(), loss.cpu()


def save_checkpoint(
    path: Path,
    trained: Sequence[Tensor],
    best: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    progress: Mapping[str, Any],
) -> None:
    """Write a run's state atomically.

    Args:
        path: File to write; its folder is made.
        trained: The tensors in training.
        best: Their values at the best evaluation so far.
        optimizer: AdamW over `trained`, in this order.
        progress: Everything else, as JSON can hold it.

    Raises:
        OSError: If the file cannot be written; an older file is left as it was.
    """
    groups = {"trained": list(trained), "best": list(best)}
    for number, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            groups[f"{name}.{number}"] = [value]
    arrays = {
        f"{name}/{index}": tensor.detach().cpu().float().numpy()
        for name, tensors in groups.items()
        for index, tensor in enumerate(tensors)
    }
    write_checksummed(path, arrays, progress)


@torch.no_grad()
def load_checkpoint(
    path: Path, trained: Sequence[Tensor], best: Sequence[Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Put a run's state back.

    Args:
        path: A file that `save_checkpoint` wrote of the same run.
        trained: The tensors in training; overwritten.
        best: Their values at the best evaluation; overwritten.
        optimizer: Optimiser over `trained`; its state is overwritten.

    Returns:
        The progress that was written.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is corrupt or of another run.
    """
    try:
        arrays, progress = read_checksummed(path)
    except ValueError as error:
        raise ValueError(f"{error}; delete it to start afresh") from None
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    for name, own in (("trained", trained), ("best", best)):
        for index, tensor in enumerate(own):
            saved = tensors.get(f"{name}/{index}")
            if saved is None or saved.shape != tensor.shape:
                raise ValueError(f"{path}: belongs to another run; delete it to start afresh")
            tensor.copy_(saved)
    whole = optimizer.state_dict()
    whole["state"] = {
        index: {
            key: tensors[f"{key}.{index}/0"]
            for key in ("step", "exp_avg", "exp_avg_sq")
            if f"{key}.{index}/0" in tensors
        }
        for index in range(len(trained))
    }
    optimizer.load_state_dict(whole)
    return progress


RISE = 0.1
"""Share of the steps over which the learning rate rises; over the others it falls to 0."""
LEAST_GAIN = 1e-3
"""Smallest fall of the validation loss that counts as progress [nats]."""
SAVE_SECONDS = 30.0
"""Least time between two checkpoints [s]; a run that is over sooner writes none."""


def finetune(
    learner: ChoiceModel,
    train: Encoded,
    splits: Mapping[str, Encoded],
    schedule: Schedule,
    on_points: Callable[[list[EvalPoint]], None],
    checkpoint: Path | None = None,
    save_seconds: float = SAVE_SECONDS,
) -> Outcome:
    """Train a learner on questions and return what it answers at its best.

    The best evaluation has the highest validation accuracy, and among equals the lowest loss. The
    other splits are only watched. The learner ends with its best weights.

    Args:
        learner: What is trained, in place.
        train: The training questions.
        splits: Split -> questions evaluated; `validation` decides.
        schedule: How long and how fast.
        on_points: Called with the points of every evaluation.
        checkpoint: File to go on from and to write; None for neither.
        save_seconds: Least time between checkpoints [s].

    Returns:
        The outcome, the same whether or not the run was interrupted.

    Raises:
        RuntimeError: If a held weight is not zero at an evaluation.
        ValueError: If the checkpoint is corrupt or of another run.
    """
    course, saved = _TrainingRun(learner, splits, schedule), time.monotonic()
    if checkpoint is None or not course.restore(checkpoint):
        on_points(course.evaluate())
    order = _order(len(train), schedule).to(train.answer.device)
    for step in range(course.outcome.step, schedule.steps):
        if course.outcome.evals_since_best >= schedule.patience:
            break
        course.step(train[order[step]])
        if (step + 1) % schedule.evaluate_every and step + 1 < schedule.steps:
            continue
        on_points(course.evaluate())
        if checkpoint is not None and time.monotonic() - saved >= save_seconds:
            course.save(checkpoint)
            saved = time.monotonic()
    course.finish()
    return course.outcome


class _TrainingRun:
    """A run under way."""

    def __init__(
        self, learner: ChoiceModel, splits: Mapping[str, Encoded], schedule: Schedule
    ) -> None:
        self.outcome = Outcome()
        self._learner, self._splits, self._schedule = learner, splits, schedule
        self._tensors: list[Tensor] = [learner.head.weight, *learner.trained]
        self._best = [tensor.detach().clone() for tensor in self._tensors]
        groups = [
            {"params": [learner.head.weight], "peak": schedule.head_lr},
            {"params": learner.trained, "peak": schedule.model_lr},
        ]
        self._optimizer = torch.optim.AdamW(groups[: 2 if learner.trained else 1], weight_decay=0.0)

    def step(self, questions: Encoded) -> None:
        """Take one optimiser step."""
        share = warmup_stable_decay(self.outcome.step, self._schedule.steps, RISE, 1 - RISE)
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * share
        loss = nn.functional.cross_entropy(self._learner.logits(questions), questions.answer)
        self._optimizer.zero_grad()
        loss.backward()
        self._learner.hold.gradients()
        if self._learner.trained:
            nn.utils.clip_grad_norm_(self._learner.trained, 1.0)
        self._optimizer.step()
        self._learner.hold.weights()
        self.outcome.step += 1

    def evaluate(self) -> list[EvalPoint]:
        """Return the points of this step; remember answers and weights if it is the best so far."""
        outcome = self.outcome
        self._learner.hold.check()
        judged = {name: evaluate_choices(self._learner, own) for name, own in self._splits.items()}
        points = [
            EvalPoint(outcome.step, name, float(correct.float().mean()), float(loss.mean()))
            for name, (correct, loss) in judged.items()
        ]
        outcome.points.extend(points)
        own = next(point for point in points if point.split == VALIDATION)
        outcome.evals_since_best += 1
        lower = own.loss < outcome.loss - LEAST_GAIN
        if own.accuracy > outcome.accuracy or (own.accuracy == outcome.accuracy and lower):
            outcome.best_step, outcome.evals_since_best = outcome.step, 0
            outcome.accuracy, outcome.loss = own.accuracy, own.loss
            outcome.correct = {name: correct.tolist() for name, (correct, _) in judged.items()}
            self._best = [tensor.detach().clone() for tensor in self._tensors]
        return points

    @torch.no_grad()
    def finish(self) -> None:
        """Put the best weights in place."""
        for tensor, value in zip(self._tensors, self._best, strict=True):
            tensor.copy_(value)

    def save(self, path: Path) -> None:
        """Write the state of the run."""
        save_checkpoint(path, self._tensors, self._best, self._optimizer, asdict(self.outcome))

    def restore(self, path: Path) -> bool:
        """Go on from a written state; return whether there is one."""
        try:
            progress = load_checkpoint(path, self._tensors, self._best, self._optimizer)
        except FileNotFoundError:
            return False
        self.outcome = Outcome.restored(progress)
        return True


def _order(questions: int, schedule: Schedule) -> Int[Tensor, "step batch"]:
    """Return which questions every step sees: whole passes, each in a new order."""
    generator = torch.Generator().manual_seed(schedule.seed)
    wanted = schedule.steps * schedule.batch
    passes = -(-wanted // questions)
    order = torch.cat([torch.randperm(questions, generator=generator) for _ in range(passes)])
    return order[:wanted].view(schedule.steps, schedule.batch)
