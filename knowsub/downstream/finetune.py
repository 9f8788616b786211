"""The finetuning loop: multiple-choice questions, early stopping on validation, resume."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor, nn

from knowsub.downstream.checkpoint import load_checkpoint, save_checkpoint
from knowsub.downstream.encode import Encoded
from knowsub.downstream.learner import VALIDATION, Learner, Outcome, Point, Schedule, judge
from knowsub.lm.schedule import lr_factor

RISE = 0.1
"""Share of the steps over which the learning rate rises; over the others it falls to 0."""
LEAST_GAIN = 1e-3
"""Smallest fall of the validation loss that counts as progress [nats]."""
SAVE_SECONDS = 30.0
"""Least time between two checkpoints [s]; a run that is over sooner writes none."""


def finetune(
    learner: Learner,
    train: Encoded,
    splits: Mapping[str, Encoded],
    schedule: Schedule,
    on_points: Callable[[list[Point]], None],
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
    course, saved = _Course(learner, splits, schedule), time.monotonic()
    if checkpoint is None or not course.restore(checkpoint):
        on_points(course.evaluate())
    order = _order(len(train), schedule).to(train.answer.device)
    for step in range(course.outcome.step, schedule.steps):
        if course.outcome.waited >= schedule.patience:
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


class _Course:
    """A run under way."""

    def __init__(self, learner: Learner, splits: Mapping[str, Encoded], schedule: Schedule) -> None:
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
        share = lr_factor(self.outcome.step, self._schedule.steps, RISE, 1 - RISE)
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

    def evaluate(self) -> list[Point]:
        """Return the points of this step; remember answers and weights if it is the best so far."""
        outcome = self.outcome
        self._learner.hold.check()
        judged = {name: judge(self._learner, own) for name, own in self._splits.items()}
        points = [
            Point(outcome.step, name, float(correct.float().mean()), float(loss.mean()))
            for name, (correct, loss) in judged.items()
        ]
        outcome.points.extend(points)
        own = next(point for point in points if point.split == VALIDATION)
        outcome.waited += 1
        lower = own.loss < outcome.loss - LEAST_GAIN
        if own.accuracy > outcome.accuracy or (own.accuracy == outcome.accuracy and lower):
            outcome.best_step, outcome.waited = outcome.step, 0
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
