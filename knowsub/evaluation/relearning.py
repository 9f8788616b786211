"""Relearning: does finetuning on some target facts bring the others back?"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from knowsub.evaluation.context import EvalContext, best_prompts, score_facts
from knowsub.evaluation.metrics import Metrics
from knowsub.evaluation.options import TestOptions
from knowsub.kg.facts import Statement
from knowsub.lm.batch import Batch, encode_statements
from knowsub.lm.load import context_length
from knowsub.lm.score import target_logits
from knowsub.masks.ablation import ablate_
from knowsub.masks.mask import Mask


@dataclass(frozen=True)
class Fold:
    """One part of the target facts, by subject, and the others."""

    train: tuple[Statement, ...]
    """The best prompt of each fact that is finetuned on."""
    test: tuple[Statement, ...]
    """All trained prompts of the facts that are tested."""


def split_folds(
    statements: Sequence[Statement], n_folds: int, generator: torch.Generator
) -> list[Fold]:
    """Return folds such that every statement is tested once and no subject is in two parts.

    Fewer folds if there are fewer subjects. Raises ValueError if there is only one.
    """
    subjects = list(dict.fromkeys(s.fact.subject_words for s in statements))
    if len(subjects) < 2:
        raise ValueError("relearning needs target facts of at least two subjects")
    order = torch.randperm(len(subjects), generator=generator).tolist()
    part = {subjects[index]: position % n_folds for position, index in enumerate(order)}
    best = best_prompts(statements, 1)
    return [
        Fold(
            train=tuple(s for s in best if part[s.fact.subject_words] != fold),
            test=tuple(s for s in statements if part[s.fact.subject_words] == fold),
        )
        for fold in range(min(n_folds, len(subjects)))
    ]


BATCH = 64
"""Statements per finetuning step at most."""


def finetune_copy(
    model: PreTrainedModel, batch: Batch, steps: int, lr: float, generator: torch.Generator
) -> PreTrainedModel:
    """Return a copy of a model after AdamW steps on the objects of a batch, in random order.

    Every parameter is free to move, removed ones too; dropout stays off, as in the original.
    """
    tuned: PreTrainedModel = copy.deepcopy(model)
    tuned.requires_grad_(True)
    optimizer = torch.optim.AdamW(tuned.parameters(), lr=lr, weight_decay=0.0)
    for _ in range(steps):
        chosen = torch.randperm(len(batch), generator=generator)[:BATCH]
        _, logits, labels = next(target_logits(tuned, batch[chosen]))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
    return tuned


@dataclass(frozen=True)
class RelearnedAccuracy:
    """Top-answer accuracy on target facts that were not finetuned on."""

    before: float
    """Before finetuning [fraction]."""
    after: float
    """After finetuning on the other facts [fraction]."""


def relearn(
    context: EvalContext, mask: Mask | None, folds: Sequence[Fold], options: TestOptions
) -> RelearnedAccuracy:
    """Return accuracy on each fold's test facts before and after finetuning on its train facts.

    The mask is removed before finetuning; None is the original model. Accuracy is the share of
    prompts, over all folds, whose object is the top answer.
    """
    encoder = context.encoder
    start = copy.deepcopy(encoder.model)
    if mask is not None:
        ablate_(start, context.matrices, mask)
    correct_before, correct_after, n_prompts = 0, 0, 0
    for fold in folds:
        # Every fold and model gets the same order of statements.
        generator = torch.Generator().manual_seed(options.seed)
        batch = encode_statements(encoder.tokenizer, fold.train, context_length(start))
        steps, lr = options.relearning_steps, options.relearning_lr
        tuned = finetune_copy(start, batch.to(start.device), steps, lr, generator)
        test = encoder.encode(fold.test).without_lower_states()
        correct_before += int(score_facts(start, test).correct.sum())
        correct_after += int(score_facts(tuned, test).correct.sum())
        n_prompts += len(test)
    return RelearnedAccuracy(correct_before / n_prompts, correct_after / n_prompts)


def relearning(
    context: EvalContext, mask: Mask, random_mask: Mask, options: TestOptions
) -> Metrics:
    """Return the metrics of `recovery` for the remaining model, its original and a random mask."""
    generator = torch.Generator().manual_seed(options.seed)
    statements = context.sets["target"].statements
    try:
        folds = split_folds(statements, options.relearning_folds, generator)
    except ValueError as error:
        return Metrics(skipped={"relearning": str(error)})
    original, remaining, random = (
        relearn(context, removed, folds, options) for removed in (None, mask, random_mask)
    )
    metrics = recovery(original, remaining, random)
    metrics.values["relearning_majority_baseline"] = majority_baseline(folds)
    return metrics


MIN_LOST_ACCURACY = 0.05
"""Recovery is defined only if removal cost at least this much accuracy [fraction]."""


def recovery(
    original: RelearnedAccuracy, remaining: RelearnedAccuracy, random: RelearnedAccuracy
) -> Metrics:
    """Return how much of the lost accuracy finetuning on other facts brings back.

    `relearning_recovery` = (a_after - a_R) / (a_F - a_R), where a is the top-answer accuracy on
    facts that were not finetuned on, a_R of the remaining model before finetuning, a_after after
    it, and a_F of the original model after the same finetuning. `relearning_<model>_before` and
    `_after` for remaining, original and random (as many random weights removed) [fractions].
    Recovery is left out where removal cost less than 0.05 of accuracy.
    """
    metrics = Metrics()
    models = {"remaining": remaining, "original": original, "random": random}
    for name, accuracy in models.items():
        metrics.values[f"relearning_{name}_before"] = accuracy.before
        metrics.values[f"relearning_{name}_after"] = accuracy.after
    lost = original.after - remaining.before
    if lost < MIN_LOST_ACCURACY:
        metrics.skipped["relearning_recovery"] = f"removal cost only {lost:.3f} of accuracy"
    else:
        metrics.values["relearning_recovery"] = (remaining.after - remaining.before) / lost
    return metrics


def majority_baseline(folds: Sequence[Fold]) -> float:
    """Return the accuracy of always answering the commonest object of the finetuned facts.

    It needs no knowledge of the tested facts; a share of the tested statements [fraction].
    """
    right = 0
    for fold in folds:
        commonest = Counter(s.object for s in fold.train).most_common(1)[0][0]
        right += sum(s.object == commonest for s in fold.test)
    return right / sum(len(fold.test) for fold in folds)
