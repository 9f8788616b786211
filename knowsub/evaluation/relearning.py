"""Relearning: does finetuning on some target facts bring the others back?"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from knowsub.architectures import MaskableMatrix
from knowsub.evaluation.context import PrefixEncoder, best_prompts, score_facts
from knowsub.evaluation.metrics import Metrics
from knowsub.evaluation.robustness import without_lower_states
from knowsub.kg.facts import Statement
from knowsub.lm.batch import Batch, encode_statements
from knowsub.lm.load import context_length
from knowsub.lm.score import target_logits
from knowsub.masks.ablation import ablate_
from knowsub.masks.mask import Mask

LOST = 0.05
"""Recovery is defined only if removal cost at least this much accuracy [fraction]."""


@dataclass(frozen=True)
class Fold:
    """One part of the target facts, by head, and the others."""

    learned: tuple[Statement, ...]
    """The best prompt of each fact that is finetuned on."""
    asked: tuple[Statement, ...]
    """All trained prompts of the facts that are tested."""


def folds(statements: Sequence[Statement], parts: int, generator: torch.Generator) -> list[Fold]:
    """Return the statements in parts such that no head is in two of them.

    Args:
        statements: Target statements of the training families.
        parts: Parts wanted; fewer if there are fewer heads.
        generator: Source of randomness.

    Returns:
        The folds; every statement is asked once.

    Raises:
        ValueError: If there is only one head.
    """
    heads = list(dict.fromkeys(one.fact.subject_words for one in statements))
    if len(heads) < 2:
        raise ValueError("relearning needs target facts of at least two heads")
    order = torch.randperm(len(heads), generator=generator).tolist()
    part = {heads[head]: place % parts for place, head in enumerate(order)}
    best = best_prompts(statements, 1)
    return [
        Fold(
            learned=tuple(one for one in best if part[one.fact.subject_words] != index),
            asked=tuple(one for one in statements if part[one.fact.subject_words] == index),
        )
        for index in range(min(parts, len(heads)))
    ]


def finetuned(
    model: PreTrainedModel, batch: Batch, steps: int, lr: float, generator: torch.Generator
) -> PreTrainedModel:
    """Return a copy of a model after some AdamW steps on the tails of a batch.

    Every parameter is free to move, those that were removed too; dropout stays off, as in the
    original.

    Args:
        model: The model; it is not changed.
        batch: The statements.
        steps: AdamW steps.
        lr: Learning rate, constant.
        generator: Source of the order; at most 64 statements a step.

    Returns:
        The finetuned copy.
    """
    tuned: PreTrainedModel = copy.deepcopy(model)
    tuned.requires_grad_(True)
    optimizer = torch.optim.AdamW(tuned.parameters(), lr=lr, weight_decay=0.0)
    for _ in range(steps):
        chosen = torch.randperm(len(batch), generator=generator)[:64]
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
    reader: PrefixEncoder,
    sites: Sequence[MaskableMatrix],
    mask: Mask | None,
    parts: Sequence[Fold],
    steps: int,
    lr: float,
    seed: int,
) -> RelearnedAccuracy:
    """Return how much of each fold comes back by finetuning on the others.

    Args:
        reader: The original model.
        sites: The maskable matrices.
        mask: What is removed before finetuning; None for the original model.
        parts: The folds.
        steps: AdamW steps per fold.
        lr: Learning rate.
        seed: Of the order of the statements.

    Returns:
        Accuracy before and after, over all folds: the share of prompts whose tail is the top
        answer.
    """
    start = copy.deepcopy(reader.model)
    if mask is not None:
        ablate_(start, sites, mask)
    hits, before, asked = 0, 0, 0
    for fold in parts:
        generator = torch.Generator().manual_seed(seed)
        batch = encode_statements(reader.tokenizer, fold.learned, context_length(start))
        tuned = finetuned(start, batch.to(start.device), steps, lr, generator)
        items = without_lower_states(reader.encode(fold.asked))
        before += int(score_facts(start, items).correct.sum())
        hits += int(score_facts(tuned, items).correct.sum())
        asked += len(items)
    return RelearnedAccuracy(before / asked, hits / asked)


def relearning(
    original: RelearnedAccuracy,
    remaining: RelearnedAccuracy,
    random: RelearnedAccuracy,
    parts: Sequence[Fold],
) -> Metrics:
    """Return the recovery figures.

    `relearning_recovery` = (a_after - a_R) / (a_F - a_R), where a is the top-answer accuracy on
    facts that were not finetuned on, a_R of the remaining model before finetuning, a_after after
    it, and a_F of the original model after the same finetuning. `relearning_<model>_before` and
    `_after` for remaining, original and random-removed [fractions]. `relearning_guess`: accuracy
    of always answering the commonest tail of the finetuned facts, which needs no knowledge.

    Args:
        original: Of the original model.
        remaining: Of the remaining model.
        random: Of the model with as many random weights removed.
        parts: The folds.

    Returns:
        The figures; recovery is left out where removal cost less than 0.05 of accuracy.
    """
    finding = Metrics()
    for name, recall in (("remaining", remaining), ("original", original), ("random", random)):
        finding.values[f"relearning_{name}_before"] = recall.before
        finding.values[f"relearning_{name}_after"] = recall.after
    finding.values["relearning_guess"] = majority_baseline(parts)
    lost = original.after - remaining.before
    if lost < LOST:
        finding.skipped["relearning_recovery"] = f"removal cost only {lost:.3f} of accuracy"
    else:
        finding.values["relearning_recovery"] = (remaining.after - remaining.before) / lost
    return finding


def majority_baseline(parts: Sequence[Fold]) -> float:
    """Return how often the commonest tail of the finetuned facts is right on the others.

    Args:
        parts: The folds.

    Returns:
        Share of the asked statements [fraction].
    """
    right = 0
    for fold in parts:
        commonest = Counter(one.object for one in fold.learned).most_common(1)[0][0]
        right += sum(one.object == commonest for one in fold.asked)
    return right / sum(len(fold.asked) for fold in parts)
