"""What the remaining model would still answer: choice, random tails, head information."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from knowsub.evaluation.bench import Bench
from knowsub.evaluation.choice import DRAWS, Choices, choice_accuracy, ignorance, set_choices
from knowsub.evaluation.finding import Finding
from knowsub.evaluation.heads import HeadGrid, head_grid, head_information
from knowsub.evaluation.items import Items, Reader, scored
from knowsub.evaluation.tails import Tails, known_tails
from knowsub.kg.triple import Role

RANDOM_TAILS = 3
"""Random tails of the relation per prompt, for the rank that an ignorant model gives."""


@dataclass(frozen=True)
class Quiz:
    """The questions about one target KG, and the original model's answers to them."""

    choices: Choices
    """Choices of the target prompts."""
    original: Float[Tensor, "fact draw"]
    """Choice accuracy of the original model [fraction]."""
    reference: Float[Tensor, "fact draw"]
    """The same asked about another head: the ignorance reference [fraction]."""
    swapped: Items
    """The target prompts with random tails of the relation."""
    grid: HeadGrid
    """The target prompts with every tail of the target."""
    original_heads: Float[Tensor, " fact"]
    """Head information in the original model [fraction]."""


def set_quiz(bench: Bench, distractors: int, draws: int, generator: torch.Generator) -> Quiz:
    """Return the questions about the target of a bench; the original weights must be in place.

    Args:
        bench: The bench.
        distractors: Wrong tails per choice.
        draws: Other heads per prompt, for the ignorance reference.
        generator: Source of randomness.

    Returns:
        The questions and the original model's answers.

    Raises:
        ValueError: If a relation has but one head, or no tail beside the true one.
    """
    items, tails = bench.sets["target"], known_tails(bench.statements)
    choices = set_choices(bench.reader, items, tails, distractors, generator)
    pool = [one for one in bench.statements if one.role == Role.TRAIN]
    grid = head_grid(bench.reader, items, tails)
    return Quiz(
        choices=choices,
        original=choice_accuracy(bench.upper, choices),
        reference=ignorance(bench.reader, bench.upper, choices, pool, draws, generator),
        swapped=swap_tails(bench.reader, items, tails, generator),
        grid=grid,
        original_heads=head_information(bench.upper, grid),
    )


def swap_tails(reader: Reader, items: Items, tails: Tails, generator: torch.Generator) -> Items:
    """Return the prompts with tails of the relation that are not true of their heads.

    Args:
        reader: The original model and where it is cut.
        items: The items.
        tails: The tails of every relation.
        generator: Source of randomness.

    Returns:
        Up to three items per prompt, tails drawn uniformly.

    Raises:
        ValueError: If there is no such tail at all.
    """
    swapped = [
        replace(one, tail=tails.texts[index])
        for one in items.statements
        for index in tails.drawn(
            one.fact, by_frequency=False, number=RANDOM_TAILS, generator=generator
        )
    ]
    return reader.items(swapped)


def recall(bench: Bench, quiz: Quiz) -> Finding:
    """Return what the model, as it is now, would still answer.

    `choice_accuracy` is the mean of `choice_uniform_accuracy` and `choice_frequency_accuracy`;
    the `_reference` of each is the original model asked about another head, `_original` the
    original model itself [fraction]. `random_tail_rank` is the median 0-based vocabulary rank of
    random tails of the relation at the target prompts. `head_information` and its `_original`
    and `_chance`: see `heads.told_apart` [fraction].

    Args:
        bench: The bench.
        quiz: The questions.

    Returns:
        The figures.
    """
    finding = Finding()
    accuracy = choice_accuracy(bench.upper, quiz.choices)
    for kind, values in (
        ("accuracy", accuracy), ("reference", quiz.reference), ("original", quiz.original)
    ):  # fmt: skip
        finding.add(f"choice_{kind}", values.mean(dim=1))
        for index, draw in enumerate(DRAWS):
            finding.add(f"choice_{draw}_{kind}", values[:, index])
    ranks = scored(bench.upper, quiz.swapped).rank.double()
    finding.figures["random_tail_rank"] = float(ranks.quantile(0.5))
    finding.add("head_information", head_information(bench.upper, quiz.grid))
    finding.add("head_information_original", quiz.original_heads)
    finding.figures["head_information_chance"] = 1.0 / quiz.grid.tails
    return finding
