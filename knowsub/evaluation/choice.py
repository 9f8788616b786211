"""Whether the model still prefers the true object: multiple choice, and identifiability by subject.

Both compare the likelihood of given objects after a prompt, so that they find knowledge that no
longer shows among the top answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.evaluation.context import EncodedFacts, EvalContext, PrefixEncoder, score_facts
from knowsub.evaluation.metrics import Metrics, median
from knowsub.evaluation.objects import (
    DRAWS,
    EncodedPairs,
    OtherSubjects,
    RelationObjects,
    encode_pairs,
    pair_nll,
    relation_objects,
)
from knowsub.evaluation.options import TestOptions
from knowsub.kg.facts import Role, Statement
from knowsub.kg.words import comparable


@dataclass(frozen=True)
class Choices:
    """One question per prompt and draw: its true object first, then the distractors."""

    facts: EncodedFacts
    """The target prompts."""
    objects: tuple[str, ...]
    """Texts of all objects."""
    options: Int[Tensor, "statement draw option"]
    """Objects offered, as indices; option 0 is the true one."""
    pairs: EncodedPairs
    """Every prompt with every object that it is offered."""


def draw_choices(
    context: EvalContext, objects: RelationObjects, number: int, generator: torch.Generator
) -> Choices:
    """Return one question per target prompt and draw; prompts of one fact share their distractors.

    `number` distractors each, fewer where there are too few objects. Raises ValueError if some
    fact has none at all.
    """
    facts = context.sets["target"]
    true = {s.fact: objects.texts.index(s.object) for s in facts.statements}
    drawn = objects.draw_for(facts.facts, number, generator)
    per_fact = [[[true[fact], *wrong] for wrong in drawn[fact]] for fact in facts.facts]
    options = torch.tensor(per_fact)[facts.fact_index]
    pairs = _encode_options(context.encoder, facts.statements, objects.texts, options)
    return Choices(facts, objects.texts, options, pairs)


def _encode_options(
    encoder: PrefixEncoder, prompts: Sequence[Statement], objects: Sequence[str], options: Tensor
) -> EncodedPairs:
    """Return each prompt paired with all options of its questions."""
    row = torch.arange(len(options)).repeat_interleave(options[0].numel())
    return encode_pairs(encoder, prompts, objects, torch.stack([row, options.flatten()], dim=1))


def first_option_wins(nll: Float[Tensor, "*rest option"]) -> Float[Tensor, "*rest"]:
    """Return 1 where option 0 has the lowest NLL, else 0; a tie of n options counts 1/n."""
    best = nll.amin(dim=-1, keepdim=True)
    tied = (nll == best).sum(dim=-1)
    return (nll[..., 0] == best[..., 0]).double() / tied


def choice_accuracy(model: PreTrainedModel, choices: Choices) -> Float[Tensor, "fact draw"]:
    """Return how often the upper blocks, as they are now, prefer the true object [fraction]."""
    wins = first_option_wins(pair_nll(model, choices.pairs).view(choices.options.shape))
    return torch.stack([choices.facts.per_fact(draw) for draw in wins.unbind(dim=1)], dim=1)


def ignorance_reference(
    context: EvalContext, choices: Choices, draws: int, generator: torch.Generator
) -> Float[Tensor, "fact draw"]:
    """Return the accuracy of the original model on the same options after another subject's prompt.

    Each prompt is replaced, `draws` times, by that of another subject of the same relation and
    template family, of any split. Subjects that share the object may be drawn: a model that does
    not know may still guess a frequent object. Raises ValueError if there is no other subject.
    """
    subjects = OtherSubjects([s for s in context.statements if s.role == Role.TRAIN])
    accuracies = []
    for _ in range(draws):
        prompts = [subjects.draw(s, generator) for s in choices.facts.statements]
        pairs = _encode_options(context.encoder, prompts, choices.objects, choices.options)
        accuracies.append(choice_accuracy(context.upper, replace(choices, pairs=pairs)))
    return torch.stack(accuracies).mean(dim=0)


RANDOM_OBJECTS = 3
"""Random objects of the relation per prompt, for the rank that an ignorant model gives."""


def swap_objects(
    context: EvalContext, objects: RelationObjects, generator: torch.Generator
) -> EncodedFacts:
    """Return each target prompt with up to three random objects untrue of its subject."""
    swapped = [
        replace(statement, object=objects.texts[index])
        for statement in context.sets["target"].statements
        for index in objects.draw(
            statement.fact, by_frequency=False, number=RANDOM_OBJECTS, generator=generator
        )
    ]
    return context.encoder.encode(swapped)


@dataclass(frozen=True)
class SubjectGrid:
    """Every target prompt paired with every distinct object of the target."""

    pairs: EncodedPairs
    """Prompts by objects, row-major."""
    n_objects: int
    """Number of distinct objects; chance is 1 over it."""
    answer: Int[Tensor, " statement"]
    """Column of each prompt's true object."""
    also_true: Bool[Tensor, "statement object"]
    """True where another object is true of the subject as well."""
    family: Int[Tensor, " statement"]
    """Number of each prompt's template family."""
    fact_index: Int[Tensor, " statement"]
    """Number of each prompt's fact, from 0 on."""


def subject_grid(context: EvalContext, objects: RelationObjects) -> SubjectGrid:
    """Return the grid of the target's prompts and objects."""
    facts = context.sets["target"]
    texts = list(dict.fromkeys(s.object for s in facts.statements))
    families = list(dict.fromkeys(s.family for s in facts.statements))
    answer = torch.tensor([texts.index(s.object) for s in facts.statements])
    also_true = torch.zeros(len(facts), len(texts), dtype=torch.bool)
    for row, statement in enumerate(facts.statements):
        true = objects.true[comparable(statement.fact.subject_words), statement.fact.relation]
        true_texts = {objects.texts[index] for index in true} - {statement.object}
        also_true[row] = torch.tensor([text in true_texts for text in texts])
    grid = torch.cartesian_prod(torch.arange(len(facts)), torch.arange(len(texts)))
    return SubjectGrid(
        pairs=encode_pairs(context.encoder, facts.statements, texts, grid),
        n_objects=len(texts),
        answer=answer,
        also_true=also_true,
        family=torch.tensor([families.index(s.family) for s in facts.statements]),
        fact_index=facts.fact_index,
    )


def subject_identifiability(model: PreTrainedModel, grid: SubjectGrid) -> Float[Tensor, " fact"]:
    """Return values per fact whose mean is the macro accuracy; see `identified_share`."""
    return identified_share(-pair_nll(model, grid.pairs).view(-1, grid.n_objects), grid)


def identified_share(
    log_p: Float[Tensor, "statement object"], grid: SubjectGrid
) -> Float[Tensor, " fact"]:
    """Return values per fact whose mean is the macro accuracy of the largest centered score.

    The estimator has no parameters: the score of object t at prompt i is its log-probability per
    token minus the mean of that over the target prompts of the same template family, and the
    largest score is the prediction; other objects that are true of the subject are left out.
    Accuracy is taken per true object over its facts, then averaged over objects. What does not
    depend on the subject (prior, template, norm of a prompt) cancels, so that logits without
    information about the subject score 1 / number of objects.

    A fact's value is the share of its prompts that are predicted right, times
    facts / (objects x facts of its object).
    """
    centered = log_p.double().clone()
    for family in range(int(grid.family.max()) + 1):
        rows = grid.family == family
        centered[rows] -= centered[rows].mean(dim=0)
    hit = centered.masked_fill(grid.also_true, -torch.inf).argmax(dim=1) == grid.answer
    prompts = torch.bincount(grid.fact_index)
    accuracy = torch.bincount(grid.fact_index, hit.double()) / prompts
    answer = torch.zeros_like(prompts).scatter_(0, grid.fact_index, grid.answer)
    return accuracy * len(accuracy) / (grid.n_objects * torch.bincount(answer)[answer])


@dataclass(frozen=True)
class MultipleChoice:
    """The questions about one target KG, and the original model's answers to them."""

    choices: Choices
    """Choices of the target prompts."""
    original: Float[Tensor, "fact draw"]
    """Choice accuracy of the original model [fraction]."""
    reference: Float[Tensor, "fact draw"]
    """The ignorance reference: the original model after another subject's prompt [fraction]."""
    swapped: EncodedFacts
    """The target prompts with random objects of the relation."""
    grid: SubjectGrid
    """The target prompts with every object of the target."""
    original_identifiability: Float[Tensor, " fact"]
    """Subject identifiability in the original model [fraction]."""


def limit_families(context: EvalContext, limit: int) -> EvalContext:
    """Return a context whose target prompts are of `limit` template families at most, 0 = all.

    Those of lowest mean NLL under the original model are kept.
    """
    facts = context.sets["target"]
    families = list(dict.fromkeys(each.family for each in facts.statements))
    if not 0 < limit < len(families):
        return context
    nll = context.original.sets["target"].mean_nll
    of = {name: torch.tensor([s.family == name for s in facts.statements]) for name in families}
    kept = sorted(families, key=lambda name: float(nll[of[name]].mean()))[:limit]
    asked = context.encoder.encode([s for s in facts.statements if s.family in kept])
    return replace(context, sets={**context.sets, "target": asked})


def prepare_multiple_choice(
    context: EvalContext, options: TestOptions, generator: torch.Generator
) -> MultipleChoice:
    """Return the questions about the target; the original weights must be in place.

    The options say how many distractors, other subjects per prompt for the reference, and template
    families. Raises ValueError if a relation has but one subject, or no object beside the true one.
    """
    context = limit_families(context, options.choice_families)
    objects = relation_objects(context.statements)
    choices = draw_choices(context, objects, options.distractors, generator)
    grid = subject_grid(context, objects)
    return MultipleChoice(
        choices=choices,
        original=choice_accuracy(context.upper, choices),
        reference=ignorance_reference(context, choices, options.reference_draws, generator),
        swapped=swap_objects(context, objects, generator),
        grid=grid,
        original_identifiability=subject_identifiability(context.upper, grid),
    )


def ask_model(
    other: EvalContext, context: EvalContext, questions: MultipleChoice
) -> MultipleChoice:
    """Return the same questions for another model, which gets its own cached states."""
    choices, sets = questions.choices, {**context.sets, "target": questions.choices.facts}
    prompts = choices.facts.statements
    pairs = _encode_options(other.encoder, prompts, choices.objects, choices.options)
    return replace(
        questions,
        choices=replace(choices, pairs=pairs),
        swapped=other.encoder.encode(questions.swapped.statements),
        grid=subject_grid(
            replace(context, encoder=other.encoder, sets=sets), relation_objects(context.statements)
        ),
    )


def multiple_choice(context: EvalContext, questions: MultipleChoice) -> Metrics:
    """Return which objects the model, as it is now, still prefers.

    `choice_accuracy` is the mean of `choice_uniform_accuracy` and `choice_frequency_accuracy`;
    the `_reference` of each is the original model after another subject's prompt, `_original` the
    original model itself [fraction]. `random_object_rank` is the median 0-based vocabulary rank of
    random objects of the relation at the target prompts. `subject_identifiability` and its
    `_original` and `_chance`: see `identified_share` [fraction].
    """
    metrics = Metrics()
    accuracies = {
        "accuracy": choice_accuracy(context.upper, questions.choices),
        "reference": questions.reference,
        "original": questions.original,
    }
    for kind, accuracy in accuracies.items():
        metrics.add(f"choice_{kind}", accuracy.mean(dim=1))
        for index, draw in enumerate(DRAWS):
            metrics.add(f"choice_{draw}_{kind}", accuracy[:, index])
    ranks = score_facts(context.upper, questions.swapped).rank
    metrics.values["random_object_rank"] = median(ranks)
    identifiability = subject_identifiability(context.upper, questions.grid)
    metrics.add("subject_identifiability", identifiability)
    metrics.add("subject_identifiability_original", questions.original_identifiability)
    metrics.values["subject_identifiability_chance"] = 1.0 / questions.grid.n_objects
    return metrics
