"""Whether the logits still tell the target's objects apart by subject."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.evaluation.context import EncodedFacts, PrefixEncoder
from knowsub.evaluation.objects import Pairs, RelationObjects, ask, pair_nll


@dataclass(frozen=True)
class SubjectGrid:
    """Every target prompt asked for every distinct tail of the target."""

    pairs: Pairs
    """Prompts by tails, row-major."""
    objects: int
    """Number of distinct tails; chance is 1 over it."""
    own: Int[Tensor, " statement"]
    """Column of each prompt's true tail."""
    also: Bool[Tensor, "statement tail"]
    """True where another tail is true of the head as well."""
    family: Int[Tensor, " statement"]
    """Number of each prompt's template family."""
    owner: Int[Tensor, " statement"]
    """Number of each prompt's fact, from 0 on."""


def subject_grid(reader: PrefixEncoder, items: EncodedFacts, tails: RelationObjects) -> SubjectGrid:
    """Return the grid of target prompts and target tails.

    Args:
        reader: The original model and where it is cut.
        items: Items of the target facts.
        tails: The tails that are true of each head.

    Returns:
        The grid.

    Raises:
        ValueError: As in `Reader.items`.
    """
    texts = list(dict.fromkeys(one.object for one in items.statements))
    families = list(dict.fromkeys(one.family for one in items.statements))
    own = torch.tensor([texts.index(one.object) for one in items.statements])
    also = torch.zeros(len(items), len(texts), dtype=torch.bool)
    for row, one in enumerate(items.statements):
        for index in tails.true[one.fact.subject_words, one.fact.relation]:
            if tails.texts[index] in texts and tails.texts[index] != one.object:
                also[row, texts.index(tails.texts[index])] = True
    grid = torch.cartesian_prod(torch.arange(len(items)), torch.arange(len(texts)))
    return SubjectGrid(
        pairs=ask(reader, items.statements, texts, grid),
        objects=len(texts),
        own=own,
        also=also,
        family=torch.tensor([families.index(one.family) for one in items.statements]),
        owner=items.owner,
    )


def subject_identifiability(model: PreTrainedModel, grid: SubjectGrid) -> Float[Tensor, " fact"]:
    """Return what each fact adds to telling the target's tails apart by head (see `told_apart`)."""
    scores = -pair_nll(model, grid.pairs).view(-1, grid.objects)
    return identified_share(scores, grid)


def identified_share(
    scores: Float[Tensor, "statement tail"], grid: SubjectGrid
) -> Float[Tensor, " fact"]:
    """Return values per fact whose mean is the macro accuracy of the largest centred score.

    The estimator has no parameters and is not fitted: the score of tail t at prompt i (log-
    probability per token) minus its mean over the target prompts of the same template family;
    the predicted tail is the largest one. Other tails that are true of the head are left out.
    Accuracy is taken per true tail over its facts and averaged over tails. Whatever does not
    depend on the head (the prior over tails, the template, the norm of a prompt) cancels, so that
    a model without head information scores 1 / number of tails.

    Args:
        scores: Log-probability of each tail after each prompt [nats per token].
        grid: The grid that was asked.

    Returns:
        Share of a fact's prompts that are told right, times facts / (tails x facts of its tail).
    """
    centred = scores.double().clone()
    for family in range(int(grid.family.max()) + 1):
        rows = grid.family == family
        centred[rows] -= centred[rows].mean(dim=0)
    hit = centred.masked_fill(grid.also, -torch.inf).argmax(dim=1) == grid.own
    prompts = torch.bincount(grid.owner)
    right = torch.bincount(grid.owner, hit.double()) / prompts
    own = torch.zeros_like(prompts).scatter_(0, grid.owner, grid.own)
    return right * len(right) / (grid.objects * torch.bincount(own)[own])
