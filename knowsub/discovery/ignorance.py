"""What not knowing looks like: the original model asked about other subjects."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.discovery.teacher import ROWS, TeacherStates
from knowsub.kg.facts import Fact, Statement
from knowsub.lm.batch import Batch, to_device_of

GOLDEN = (math.sqrt(5) - 1) / 2
"""Its multiples lie evenly in 0..1, whatever stretch of them is taken."""

MIN_OBJECTS = 3
"""Tails that it takes for the others to have a deviation beside the answer."""


@dataclass(frozen=True)
class Ignorance:
    """What the original model answers when it is asked about other heads."""

    prior: Float[Tensor, " vocab"]
    """Log of its mean probability of each token over control prompts [nats]."""
    objects: Int[Tensor, " tail"]
    """First tokens of the tails of control and target facts."""
    targets: Int[Tensor, " target"]
    """First tokens of the target's tails."""
    object_zscores: Float[Tensor, "statement target"]
    """Per target statement and tail of the target: by how many standard deviations over the tails
    that tail's logit lies above their mean when another head is asked about, that head's own tail
    left out. Not to know is not to be average everywhere: now and then a tail that is not known
    comes out on top, and so must these."""


Ask = Callable[[Float[Tensor, "control statement"]], Int[Tensor, " statement"]]
"""The standing of every target statement's tail when each control statement is asked -> which
control statement is asked in whose stead."""


@torch.no_grad()
def ignorance(upper: PreTrainedModel, target: Batch, control: TeacherStates, ask: Ask) -> Ignorance:
    """Return what the original model answers about heads that are not the target's.

    Args:
        upper: The upper blocks of the original model; only its LM head is used.
        target: The target statements.
        control: The control statements, with their states under the original model.
        ask: Chooses a control statement for each target statement; what it is given, and what
            it returns, is on the CPU.

    Returns:
        Where the model is: the prior over tails and the standings, at the first tail position;
        standings are not numbers where there are fewer than `FEWEST` tails.
    """
    head = upper.get_output_embeddings()
    own = target.labels[target.first_targets]
    tails = torch.cat([control.batch.labels[control.batch.first_targets], own]).unique()
    probability, logits = torch.zeros((), device=head.weight.device), []
    for part in control.states[:, 0].split(ROWS):
        some = head(to_device_of(part, head.weight)).float()
        probability = probability + some.double().softmax(dim=-1).sum(dim=0)
        logits.append(some[:, to_device_of(tails, some)].cpu())
    answers = torch.searchsorted(tails, control.batch.labels[control.batch.first_targets])
    above = _object_zscores(torch.cat(logits), answers)
    targets = own.unique()
    asked = ask(above[:, torch.searchsorted(tails, own)])
    standings = above[:, torch.searchsorted(tails, targets)][asked]
    prior = (probability / len(above)).log().float()
    return Ignorance(prior, *(to_device_of(one, prior) for one in (tails, targets, standings)))


def _object_zscores(
    told: Float[Tensor, "control tail"], answers: Int[Tensor, " control"]
) -> Float[Tensor, "control tail"]:
    """Return where tails stand, in standard deviations over the tails that are not the answer.

    A known answer towers over all others; where nothing is known there is no such tail, and to
    count it in the deviation would put every other one too low.
    """
    others = told.scatter(1, answers[:, None], torch.nan)
    mean = others.nanmean(dim=1, keepdim=True)
    variance = (others - mean).square().nansum(dim=1, keepdim=True) / (told.shape[1] - 2)
    return (told - mean) / variance.sqrt()


def match_controls(
    target: Sequence[Statement],
    control: Sequence[Statement],
    generator: torch.Generator,
    table: Float[Tensor, "control statement"],
) -> Int[Tensor, " statement"]:
    """Return which control statement stands for each target statement: one head per target fact.

    The heads are not drawn one by one: in order of how far each lifts the fact's tail, a fact gets
    the one at its own quantile, (k + 1/2) / facts for every k once, spread evenly over the facts
    that share a tail too. Otherwise chance would leave some targets more recognisable than
    ignorance is, and others less.

    Args:
        target: The target statements.
        control: The control statements.
        generator: Source of randomness.
        table: Standing of each target statement's tail when each control statement is asked.

    Returns:
        Indices of `control`: all prompts of a fact are answered by prompts of one other fact, in
        the same template family where there is one.

    Source:
        Quantiles in the order of multiples of the golden ratio, a sequence of low discrepancy
        (Kuipers and Niederreiter 1974, chapter 2.3).
    """
    others, asked = _by_fact(control), _by_fact(target)
    lifted = torch.stack([table[list(rows.values())].mean(dim=0) for rows in others.values()])
    shuffled = [list(asked)[i] for i in torch.randperm(len(asked), generator=generator).tolist()]
    ranks = (torch.arange(len(asked)) * GOLDEN % 1.0).argsort().argsort().tolist()
    chosen = torch.zeros(len(target), dtype=torch.long)
    for rank, fact in zip(ranks, sorted(shuffled, key=lambda each: each.object_words), strict=True):
        quantile = (rank + 0.5) / len(asked)
        own = list(asked[fact].values())
        order = lifted[:, own[0]].argsort(stable=True)
        instead = list(others.values())[int(order[int(quantile * len(order))])]
        for family, row in asked[fact].items():
            chosen[row] = instead.get(family, min(instead.values()))
    return chosen


def _by_fact(statements: Sequence[Statement]) -> dict[Fact, dict[str, int]]:
    """Return the row of every statement by its fact and its template family."""
    rows: dict[Fact, dict[str, int]] = {}
    for row, one in enumerate(statements):
        rows.setdefault(one.fact, {})[one.family] = row
    return rows
