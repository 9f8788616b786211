"""What not knowing looks like: what the original model answers about subjects not the target's.

And which of these subjects stands in for each target fact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.discovery.teacher import SEQUENCES, TeacherStates
from knowsub.kg.facts import Fact, Split, Statement
from knowsub.lm.batch import Batch, to_device_of
from knowsub.lm.head import lm_head

MIN_OBJECTS = 3
"""Objects needed for a standard deviation over the others than the answer."""


@dataclass(frozen=True)
class Ignorance:
    """What the original model answers when it is asked about unrelated subjects."""

    prior: Float[Tensor, " vocab"]
    """Log of its mean probability of each token over these prompts [nats]."""
    objects: Int[Tensor, " object"]
    """First tokens of the objects of these and of the target facts."""
    targets: Int[Tensor, " target"]
    """First tokens of the target's objects."""
    object_zscores: Float[Tensor, "statement target"]
    """Per target statement and object of the target: z-score of the object's logit among all
    objects for an unrelated subject, that subject's own object left out. An unknown object
    sometimes ranks first by chance; the z-scores reproduce that."""


MatchControls = Callable[
    [Float[Tensor, "control object"], Int[Tensor, " statement"]], Int[Tensor, " statement"]
]
"""Z-score of each object when each control statement is asked, and column of each target
statement's object -> the control statement that each target statement takes its z-scores from."""


@torch.no_grad()
def measure_ignorance(
    upper: PreTrainedModel, target: Batch, control: TeacherStates, match: MatchControls
) -> Ignorance:
    """Return what the original model answers about subjects that are not the target's.

    Args:
        upper: The upper blocks of the original model; only its LM head is used.
        target: The target statements.
        control: The control statements, with the teacher's states.
        match: Chooses a control statement for each target statement.

    Returns:
        Prior and z-scores at the first token of the object, on the model's device; z-scores are
        NaN if there are fewer than `MIN_OBJECTS` objects.
    """
    head = lm_head(upper)
    labels = target.labels[target.first_targets]
    answers = control.batch.labels[control.batch.first_targets]
    objects, targets = torch.cat([answers, labels]).unique(), labels.unique()
    probability, object_logits = torch.zeros((), device=head.weight.device), []
    for part in control.states[:, 0].split(SEQUENCES):
        logits = head(to_device_of(part, head.weight)).float()  # (control, vocab)
        probability = probability + logits.double().softmax(dim=-1).sum(dim=0)
        object_logits.append(logits[:, to_device_of(objects, logits)].cpu())
    by_control = torch.cat(object_logits)  # (control, object)
    zscores = _object_zscores(by_control, torch.searchsorted(objects, answers))
    matched = match(zscores, torch.searchsorted(objects, labels))
    target_zscores = zscores[:, torch.searchsorted(objects, targets)][matched]
    prior = (probability / len(zscores)).log().float()
    on_device = (to_device_of(tensor, prior) for tensor in (objects, targets, target_zscores))
    return Ignorance(prior, *on_device)


def _object_zscores(
    logits: Float[Tensor, "control object"], answers: Int[Tensor, " control"]
) -> Float[Tensor, "control object"]:
    """Return z-scores of the objects' logits, over the objects that are not the answer.

    A known answer's logit is an outlier. Where nothing is known there is none, and counting it in
    the standard deviation would put every other object too low.
    """
    others = logits.scatter(1, answers[:, None], torch.nan)
    mean = others.nanmean(dim=1, keepdim=True)
    variance = (others - mean).square().nansum(dim=1, keepdim=True) / (logits.shape[1] - 2)
    return (logits - mean) / variance.sqrt()


GOLDEN = (math.sqrt(5) - 1) / 2
"""Golden ratio: its multiples modulo 1 are spread evenly, whatever run of them is taken."""
NEIGHBORHOOD = (Split.NEIGHBORHOOD_TRAIN, Split.NEIGHBORHOOD_TRAIN_UNKNOWN)
"""Splits of facts about the target's siblings, some of which share its objects."""
WRONG_OBJECTS = 9
"""Wrong objects that a guess has to rank the right one above; see `typical_subject`."""


def match_controls(
    target: Sequence[Statement],
    control: Sequence[Statement],
    alike: Collection[Fact],
    generator: torch.Generator,
    zscores: Float[Tensor, "control object"],
    columns: Int[Tensor, " statement"],
) -> Int[Tensor, " statement"]:
    """Return which control statement stands in for each target statement: a subject per fact.

    Subjects are not drawn independently. The control subjects are sorted by their z-score of a
    fact's object, and the fact gets the one at its quantile. Each quantile (k + 1/2) / facts is
    used once and they are spread evenly over facts that share an object; by chance alone some
    targets would stay more recognizable than ignorance makes them, others less.

    Facts whose subjects will look alike get one subject for all of them, a typical one, which may
    be of the neighborhood. Their objects will be ranked in one order, and no order gives each fact
    a quantile of its own: asked for all quantiles at once, every object ends in the middle, where
    no guess is ever right.

    Each relation is matched by itself: what is not known of the capital of France is what a model
    answers about another country's capital, not about a currency. A relation that no control fact
    has is matched with all of them.

    Args:
        target: The target statements.
        control: The control statements, and those of the neighborhood if some facts look alike.
        alike: Target facts whose subjects the remaining model cannot tell apart.
        generator: Source of randomness.
        zscores: Z-score of each object when each control statement is asked.
        columns: Column of `zscores` for each target statement's object.

    Returns:
        Indices of `control`: all prompts of a fact get prompts of one control fact, in the same
        template family if it has that.

    Source:
        Quantiles in the order of multiples of the golden ratio, a sequence of low discrepancy
        (Kuipers and Niederreiter 1974, chapter 2.3).
    """
    control_rows, target_rows = _rows_by_fact(control), _rows_by_fact(target)
    # Z-scores of a control fact are the mean over its prompts: (control fact, object).
    by_fact = torch.stack([zscores[list(r.values())].mean(dim=0) for r in control_rows.values()])
    column = {fact: int(columns[min(rows.values())]) for fact, rows in target_rows.items()}
    facts, subjects = list(target_rows), list(control_rows)
    near = {each.fact for each in control if each.split in NEIGHBORHOOD}
    shuffled = [facts[i] for i in torch.randperm(len(facts), generator=generator).tolist()]
    chosen: dict[Fact, int] = {}
    for relation in dict.fromkeys(fact.relation for fact in facts):
        asked = [fact for fact in shuffled if fact.relation == relation]
        same = [i for i, fact in enumerate(subjects) if fact.relation == relation]
        apart = [i for i in same if subjects[i] not in near]
        rows = torch.tensor(apart or [i for i, fact in enumerate(subjects) if fact not in near])
        for fact, quantile in _spread_quantiles([fact for fact in asked if fact not in alike]):
            order = by_fact[rows, column[fact]].argsort(stable=True)
            chosen[fact] = int(rows[order[int(quantile * len(rows))]])
        if one_for_all := {fact: column[fact] for fact in asked if fact in alike}:
            rows = torch.tensor(same or range(len(subjects)))
            answers = {fact.object_words for fact in one_for_all}
            shared = torch.tensor([subjects[i].object_words in answers for i in rows.tolist()])
            siblings = torch.tensor([subjects[i] in near for i in rows.tolist()])
            objects = torch.tensor(list(one_for_all.values()))
            typical = typical_subject(by_fact[rows], objects, siblings, ~shared)
            chosen |= dict.fromkeys(one_for_all, int(rows[typical]))
    return _same_families(target_rows, [control_rows[each] for each in subjects], chosen)


def typical_subject(
    zscores: Float[Tensor, "subject object"],
    asked: Int[Tensor, " fact"],
    siblings: Bool[Tensor, " subject"],
    eligible: Bool[Tensor, " subject"],
) -> int:
    """Return the subject about which guesses are right as often as about the average subject.

    The average is of two means with the same weight, that of the target's siblings and that of the
    other subjects, so that it does not depend on how many facts of either kind there happen to be.

    A guess is right if its object ranks above `WRONG_OBJECTS` others that are drawn at random. The
    share of right guesses differs from subject to subject, and mostly it is small, so that neither
    the median nor any subject at random stands for the mean.

    Args:
        zscores: Z-score of each object when each subject is asked about.
        asked: Column of the right object of each fact.
        siblings: Which subjects are of the neighborhood; all or none may be.
        eligible: The subjects that may be returned, all if none is: those that have none of the
            objects. A model that does not know may still guess a frequent object, so the mean is
            of all.

    Returns:
        Index of the subject; the first of several.
    """
    share_below = zscores.argsort(dim=1).argsort(dim=1) / (zscores.shape[1] - 1)
    right = (share_below[:, asked] ** WRONG_OBJECTS).mean(dim=1)
    groups = [right[which] for which in (siblings, ~siblings) if bool(which.any())]
    average = torch.stack([group.mean() for group in groups]).mean()
    distance = (right - average).abs()
    if bool(eligible.any()):
        distance[~eligible] = torch.inf
    return int(distance.argmin())


def _same_families(
    target: dict[Fact, dict[str, int]],
    subjects: Sequence[dict[str, int]],
    chosen: dict[Fact, int],
) -> Int[Tensor, " statement"]:
    """Return the row of the chosen subject's prompt for each target row, of its family if any."""
    matched = torch.zeros(sum(map(len, target.values())), dtype=torch.long)
    for fact, rows in target.items():
        prompts = subjects[chosen[fact]]
        for family, row in rows.items():
            matched[row] = prompts.get(family, min(prompts.values()))
    return matched


def _spread_quantiles(facts: Sequence[Fact]) -> list[tuple[Fact, float]]:
    """Return facts with quantiles (k + 1/2) / facts, spread evenly over those of one object."""
    ranks = (torch.arange(len(facts)) * GOLDEN % 1.0).argsort().argsort().tolist()
    by_object = sorted(facts, key=lambda fact: fact.object_words)
    return [(f, (rank + 0.5) / len(facts)) for rank, f in zip(ranks, by_object, strict=True)]


def _rows_by_fact(statements: Sequence[Statement]) -> dict[Fact, dict[str, int]]:
    """Return the row of every statement by its fact and its template family."""
    rows: dict[Fact, dict[str, int]] = {}
    for row, statement in enumerate(statements):
        rows.setdefault(statement.fact, {})[statement.family] = row
    return rows
