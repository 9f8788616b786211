"""Choosing the true tail among tails of the same relation, and what ignorance would choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.evaluation.items import Items, Reader
from knowsub.evaluation.pairs import Pairs, ask, pair_nll
from knowsub.evaluation.tails import OtherHeads, Tails
from knowsub.kg.triple import Fact, Statement

DRAWS = ("uniform", "frequency")
"""How distractors are drawn: every tail alike, or by the number of facts that have it."""


@dataclass(frozen=True)
class Choices:
    """One question per prompt and draw: its true tail first, then the distractors."""

    items: Items
    """The prompts, those of the target facts."""
    texts: tuple[str, ...]
    """Texts of all tails."""
    options: Int[Tensor, "statement draw option"]
    """Tails offered, as indices; option 0 is the true one."""
    pairs: Pairs
    """Every prompt with every tail that it is offered."""


def set_choices(
    reader: Reader, items: Items, tails: Tails, number: int, generator: torch.Generator
) -> Choices:
    """Return the questions about items; prompts of one fact share their distractors.

    Args:
        reader: The original model and where it is cut.
        items: The items.
        tails: The tails of every relation.
        number: Distractors per question; fewer where there are too few tails.
        generator: Source of randomness.

    Returns:
        The questions.

    Raises:
        ValueError: If some fact has no distractor at all.
    """
    text = {one.fact: one.tail for one in items.statements}
    drawn = [_offered(fact, text[fact], tails, number, generator) for fact in items.facts]
    fewest = min(len(options) for draws in drawn for options in draws)
    if fewest < 2:
        raise ValueError("choice needs at least one tail that is not true of each head")
    per_fact = torch.tensor([[options[:fewest] for options in draws] for draws in drawn])
    options = per_fact[items.owner]
    pairs = _offer(reader, items.statements, tails.texts, options)
    return Choices(items, tails.texts, options, pairs)


def _offered(
    fact: Fact, text: str, tails: Tails, number: int, generator: torch.Generator
) -> list[list[int]]:
    own = tails.texts.index(text)
    draws = [
        tails.drawn(fact, by_frequency=draw == "frequency", number=number, generator=generator)
        for draw in DRAWS
    ]
    return [[own, *others] for others in draws]


def _offer(
    reader: Reader, prompts: Sequence[Statement], texts: tuple[str, ...], options: Tensor
) -> Pairs:
    row = torch.arange(len(options)).repeat_interleave(options[0].numel())
    return ask(reader, prompts, texts, torch.stack([row, options.flatten()], dim=1))


def won(nll: Float[Tensor, "*rest option"]) -> Float[Tensor, "*rest"]:
    """Return whether option 0 is the likeliest; a tie of n options for the best counts 1/n.

    Args:
        nll: NLL per token of each option [nats].

    Returns:
        1 for a win, 0 for a loss, in between for a tie.
    """
    best = nll.amin(dim=-1, keepdim=True)
    tied = (nll == best).sum(dim=-1)
    return (nll[..., 0] == best[..., 0]).double() / tied


def choice_accuracy(model: PreTrainedModel, choices: Choices) -> Float[Tensor, "fact draw"]:
    """Return how often the true tail is chosen.

    Args:
        model: The upper blocks, as they are now.
        choices: The questions.

    Returns:
        Accuracy per fact and draw, over the fact's prompts [fraction].
    """
    return _accuracy(model, choices, choices.pairs)


def _accuracy(model: PreTrainedModel, choices: Choices, pairs: Pairs) -> Tensor:
    wins = won(pair_nll(model, pairs).view(choices.options.shape))
    return torch.stack([choices.items.per_fact(draw) for draw in wins.unbind(dim=1)], dim=1)


def ignorance(
    reader: Reader,
    upper: PreTrainedModel,
    choices: Choices,
    pool: Sequence[Statement],
    draws: int,
    generator: torch.Generator,
) -> Float[Tensor, "fact draw"]:
    """Return the ignorance reference: the same questions, the original asked about another head.

    Each prompt is replaced by that of another head of the same relation in the same template
    family (any family where that one is missing), drawn at random among all splits. Heads that
    share the tail may be drawn: a model that does not know may still guess a frequent tail.

    Args:
        reader: The original model and where it is cut.
        upper: Its upper blocks, with the original weights in place.
        choices: The questions.
        pool: Statements of all facts, in the template families of the questions.
        draws: Other heads per prompt.
        generator: Source of randomness.

    Returns:
        Accuracy per fact and draw of distractors [fraction].

    Raises:
        ValueError: If some relation has no other head.
    """
    heads, parts = OtherHeads(pool), []
    for _ in range(draws):
        others = [heads.drawn(one, generator) for one in choices.items.statements]
        pairs = _offer(reader, others, choices.texts, choices.options)
        parts.append(_accuracy(upper, choices, pairs))
    return torch.stack(parts).mean(dim=0)
