"""What not knowing looks like: the original model asked about other heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.kg.triple import Fact, Statement
from knowsub.lm.encode import Batch


@dataclass(frozen=True)
class Ignorance:
    """What the original model answers when it is asked about other heads."""

    prior: Float[Tensor, " vocab"]
    """Log of its mean probability of each token over control prompts [nats]."""
    tails: Int[Tensor, " tail"]
    """First tokens of the tails of control and target facts."""
    targets: Int[Tensor, " target"]
    """First tokens of the target's tails."""
    standing: Float[Tensor, " statement"]
    """Per target statement: by how many standard deviations over the tails its tail's logit lies
    above their mean when another head is asked about. Not to know is not to be average everywhere:
    now and then a tail that is not known comes out on top, and so must these."""


@torch.no_grad()
def ignorance(
    upper: PreTrainedModel,
    target: Batch,
    control: Batch,
    states: Float[Tensor, "control position hidden"],
    asked: Int[Tensor, " statement"],
) -> Ignorance:
    """Return what the original model answers about heads that are not the target's.

    Args:
        upper: The upper blocks of the original model; only its LM head is used.
        target: The target statements.
        control: The control statements.
        states: Their final-norm states under the original model.
        asked: For each target statement, the control statement that is asked in its stead.

    Returns:
        The prior over tails and the standings, at the first tail position.
    """
    head = upper.get_output_embeddings()
    first = control.first_reads
    answers = states[first]
    own = target.labels[target.first_reads]
    tails = torch.cat([control.labels[first], own]).unique()
    probability, logits = torch.zeros(()), []
    for start in range(0, len(answers), 256):
        some = head(answers[start : start + 256]).float()
        probability = probability + some.double().softmax(dim=-1).sum(dim=0)
        logits.append(some[:, tails])
    told = torch.cat(logits)[asked]
    above = told.gather(1, torch.searchsorted(tails, own)[:, None])[:, 0] - told.mean(dim=1)
    prior = (probability / len(answers)).log().float()
    return Ignorance(prior, tails, own.unique(), above / told.std(dim=1))


def asked_instead(
    target: Sequence[Statement], control: Sequence[Statement], generator: torch.Generator
) -> Int[Tensor, " statement"]:
    """Return which control statement stands for each target statement: one head per target fact.

    Args:
        target: The target statements.
        control: The control statements.
        generator: Source of randomness.

    Returns:
        Indices of `control`: all prompts of a fact are answered by prompts of one other fact,
        drawn at random, in the same template family where there is one.
    """
    rows: dict[Fact, dict[str, int]] = {}
    for row, one in enumerate(control):
        rows.setdefault(one.fact, {})[one.family] = row
    others = list(rows.values())
    drawn: dict[Fact, dict[str, int]] = {}
    for one in target:
        if one.fact not in drawn:
            pick = int(torch.randint(len(others), (), generator=generator))
            drawn[one.fact] = others[pick]
    asked = [drawn[one.fact].get(one.family, min(drawn[one.fact].values())) for one in target]
    return torch.tensor(asked)
