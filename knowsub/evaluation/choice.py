"""Multiple choice among objects of the same relation, and what ignorance would choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.evaluation.context import EncodedFacts, EvalContext, PrefixEncoder, score_facts
from knowsub.evaluation.identifiability import SubjectGrid, subject_grid, subject_identifiability
from knowsub.evaluation.metrics import Metrics
from knowsub.evaluation.objects import (
    OtherSubjects,
    Pairs,
    RelationObjects,
    ask,
    pair_nll,
    relation_objects,
)
from knowsub.kg.facts import Fact, Role, Statement

DRAWS = ("uniform", "frequency")
"""How distractors are drawn: every tail alike, or by the number of facts that have it."""


@dataclass(frozen=True)
class Choices:
    """One question per prompt and draw: its true tail first, then the distractors."""

    items: EncodedFacts
    """The prompts, those of the target facts."""
    texts: tuple[str, ...]
    """Texts of all tails."""
    options: Int[Tensor, "statement draw option"]
    """Tails offered, as indices; option 0 is the true one."""
    pairs: Pairs
    """Every prompt with every tail that it is offered."""


def set_choices(
    reader: PrefixEncoder,
    items: EncodedFacts,
    tails: RelationObjects,
    number: int,
    generator: torch.Generator,
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
    text = {one.fact: one.object for one in items.statements}
    drawn = [_offered(fact, text[fact], tails, number, generator) for fact in items.facts]
    fewest = min(len(options) for draws in drawn for options in draws)
    if fewest < 2:
        raise ValueError("choice needs at least one tail that is not true of each head")
    per_fact = torch.tensor([[options[:fewest] for options in draws] for draws in drawn])
    options = per_fact[items.owner]
    pairs = _offer(reader, items.statements, tails.texts, options)
    return Choices(items, tails.texts, options, pairs)


def _offered(
    fact: Fact, text: str, tails: RelationObjects, number: int, generator: torch.Generator
) -> list[list[int]]:
    own = tails.texts.index(text)
    draws = [
        tails.drawn(fact, by_frequency=draw == "frequency", number=number, generator=generator)
        for draw in DRAWS
    ]
    return [[own, *others] for others in draws]


def _offer(
    reader: PrefixEncoder, prompts: Sequence[Statement], texts: tuple[str, ...], options: Tensor
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
    reader: PrefixEncoder,
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
    heads, parts = OtherSubjects(pool), []
    for _ in range(draws):
        others = [heads.drawn(one, generator) for one in choices.items.statements]
        pairs = _offer(reader, others, choices.texts, choices.options)
        parts.append(_accuracy(upper, choices, pairs))
    return torch.stack(parts).mean(dim=0)


RANDOM_OBJECTS = 3
"""Random tails of the relation per prompt, for the rank that an ignorant model gives."""


@dataclass(frozen=True)
class MultipleChoice:
    """The questions about one target KG, and the original model's answers to them."""

    choices: Choices
    """Choices of the target prompts."""
    original: Float[Tensor, "fact draw"]
    """Choice accuracy of the original model [fraction]."""
    reference: Float[Tensor, "fact draw"]
    """The same asked about another head: the ignorance reference [fraction]."""
    swapped: EncodedFacts
    """The target prompts with random tails of the relation."""
    grid: SubjectGrid
    """The target prompts with every tail of the target."""
    original_heads: Float[Tensor, " fact"]
    """Head information in the original model [fraction]."""


def set_multiple_choice(
    bench: EvalContext, distractors: int, draws: int, generator: torch.Generator
) -> MultipleChoice:
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
    items, tails = bench.sets["target"], relation_objects(bench.statements)
    choices = set_choices(bench.encoder, items, tails, distractors, generator)
    pool = [one for one in bench.statements if one.role == Role.TRAIN]
    grid = subject_grid(bench.encoder, items, tails)
    return MultipleChoice(
        choices=choices,
        original=choice_accuracy(bench.upper, choices),
        reference=ignorance(bench.encoder, bench.upper, choices, pool, draws, generator),
        swapped=swap_objects(bench.encoder, items, tails, generator),
        grid=grid,
        original_heads=subject_identifiability(bench.upper, grid),
    )


def swap_objects(
    reader: PrefixEncoder, items: EncodedFacts, tails: RelationObjects, generator: torch.Generator
) -> EncodedFacts:
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
        replace(one, object=tails.texts[index])
        for one in items.statements
        for index in tails.drawn(
            one.fact, by_frequency=False, number=RANDOM_OBJECTS, generator=generator
        )
    ]
    return reader.encode(swapped)


def multiple_choice(bench: EvalContext, quiz: MultipleChoice) -> Metrics:
    """Return what the model, as it is now, would still answer.

    `choice_accuracy` is the mean of `choice_uniform_accuracy` and `choice_frequency_accuracy`;
    the `_reference` of each is the original model asked about another head, `_original` the
    original model itself [fraction]. `random_object_rank` is the median 0-based vocabulary rank of
    random tails of the relation at the target prompts. `subject_identifiability` and its `_original`
    and `_chance`: see `heads.told_apart` [fraction].

    Args:
        bench: The bench.
        quiz: The questions.

    Returns:
        The figures.
    """
    finding = Metrics()
    accuracy = choice_accuracy(bench.upper, quiz.choices)
    for kind, values in (
        ("accuracy", accuracy), ("reference", quiz.reference), ("original", quiz.original)
    ):  # fmt: skip
        finding.add(f"choice_{kind}", values.mean(dim=1))
        for index, draw in enumerate(DRAWS):
            finding.add(f"choice_{draw}_{kind}", values[:, index])
    ranks = score_facts(bench.upper, quiz.swapped).rank.double()
    finding.values["random_object_rank"] = float(ranks.quantile(0.5))
    finding.add("subject_identifiability", subject_identifiability(bench.upper, quiz.grid))
    finding.add("subject_identifiability_original", quiz.original_heads)
    finding.values["subject_identifiability_chance"] = 1.0 / quiz.grid.objects
    return finding
