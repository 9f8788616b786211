"""Head information: whether what is left still tells the target's tails apart by head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.evaluation.items import Items, Reader
from knowsub.evaluation.pairs import Pairs, ask, pair_nll
from knowsub.evaluation.tails import Tails


@dataclass(frozen=True)
class HeadGrid:
    """Every target prompt asked for every distinct tail of the target."""

    pairs: Pairs
    """Prompts by tails, row-major."""
    tails: int
    """Number of distinct tails; chance is 1 over it."""
    own: Int[Tensor, " statement"]
    """Column of each prompt's true tail."""
    also: Bool[Tensor, "statement tail"]
    """True where another tail is true of the head as well."""
    family: Int[Tensor, " statement"]
    """Number of each prompt's template family."""
    owner: Int[Tensor, " statement"]
    """Number of each prompt's fact, from 0 on."""


def head_grid(reader: Reader, items: Items, tails: Tails) -> HeadGrid:
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
    texts = list(dict.fromkeys(one.tail for one in items.statements))
    families = list(dict.fromkeys(one.family for one in items.statements))
    own = torch.tensor([texts.index(one.tail) for one in items.statements])
    also = torch.zeros(len(items), len(texts), dtype=torch.bool)
    for row, one in enumerate(items.statements):
        for index in tails.true[one.fact.head_words, one.fact.relation]:
            if tails.texts[index] in texts and tails.texts[index] != one.tail:
                also[row, texts.index(tails.texts[index])] = True
    grid = torch.cartesian_prod(torch.arange(len(items)), torch.arange(len(texts)))
    return HeadGrid(
        pairs=ask(reader, items.statements, texts, grid),
        tails=len(texts),
        own=own,
        also=also,
        family=torch.tensor([families.index(one.family) for one in items.statements]),
        owner=items.owner,
    )


def head_information(model: PreTrainedModel, grid: HeadGrid) -> Float[Tensor, " fact"]:
    """Return what each fact adds to telling the target's tails apart by head (see `told_apart`)."""
    scores = -pair_nll(model, grid.pairs).view(-1, grid.tails)
    return told_apart(scores, grid)


def told_apart(scores: Float[Tensor, "statement tail"], grid: HeadGrid) -> Float[Tensor, " fact"]:
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
    return right * len(right) / (grid.tails * torch.bincount(own)[own])
