"""What the original model (the teacher) predicts, cached so that it never runs during the search.

KL(p || q) from the teacher's distribution p needs only the mean row of the LM head under p:

    KL(p || q) = logsumexp(z) - h . E_p[w] + (sum of p log p - E_p[b])

where h is the state under the mask, z = W h + b its logits, w and b a token's row and bias. With
float32 products that mean row and the term in brackets are cached. With bfloat16 products, where
subtracting the mean row would lose the difference in rounding, the teacher's states are.

`Ignorance` is what the teacher answers when it is asked about subjects that are not the target's.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from knowsub.discovery.options import Precision
from knowsub.kg.facts import Fact, Statement
from knowsub.lm.batch import Batch, flat_nonzero, take_rows, to_device_of
from knowsub.lm.blocks import Allocate, in_memory, last_hidden
from knowsub.lm.head import LMHead, lm_head
from knowsub.lm.head_loss import chunked_kl, chunked_kl_from_mean_row

SEQUENCES = 256
"""Sequences that the teacher reads at a time."""
POSITIONS = 128
"""Positions at which the teacher's logits are held at a time."""


@dataclass(frozen=True)
class TeacherStates:
    """Sequences with the teacher's final states at their target positions."""

    batch: Batch
    """The sequences, with their lower states."""
    states: Float[Tensor, "batch target hidden"]
    """Final-norm states, which the LM head reads; in order of the positions, padded at the end."""

    def divergence(
        self, head: LMHead, states: Float[Tensor, "target hidden"], rows: Int[Tensor, " row"]
    ) -> Float[Tensor, ""]:
        """Return KL(p || q) summed over the target positions of some sequences [nats].

        `states` are the final states under the mask at these positions.
        """
        return chunked_kl(states, head, _at_targets(self.batch, self.states, rows, states))


@dataclass(frozen=True)
class TeacherMeanRows:
    """Sequences with the LM head's mean row under p at their target positions."""

    batch: Batch
    """The sequences, with their lower states."""
    mean_rows: Float[Tensor, "batch target row"]
    """Mean row and, in the last column, the sum of p log p less the mean bias [nats]."""

    def divergence(
        self, head: LMHead, states: Float[Tensor, "target hidden"], rows: Int[Tensor, " row"]
    ) -> Float[Tensor, ""]:
        """Return what `TeacherStates.divergence` does, without the teacher's logits."""
        mean_rows = _at_targets(self.batch, self.mean_rows, rows, states)
        return chunked_kl_from_mean_row(states, head, mean_rows[:, :-1], mean_rows[:, -1])


Teacher = TeacherStates | TeacherMeanRows


def cache_teacher(
    upper: PreTrainedModel, batch: Batch, precision: Precision, allocate: Allocate = in_memory
) -> Teacher:
    """Return a batch of upper blocks' inputs with the least that its divergence is computed from.

    These are mean rows if model and products (`precision`) are in float32 and the logits have no
    soft cap, states otherwise.
    """
    linear = lm_head(upper).cap is None
    exact = linear and precision is Precision.FLOAT32 and upper.dtype is torch.float32
    return (cache_teacher_mean_rows if exact else cache_teacher_states)(upper, batch, allocate)


def cache_teacher_states(
    upper: PreTrainedModel, batch: Batch, allocate: Allocate = in_memory
) -> TeacherStates:
    """Return a batch with the teacher's final states; arguments as in `cache_teacher`."""
    return TeacherStates(batch, _cache(upper, batch, allocate, lambda states: states))


def cache_teacher_mean_rows(
    upper: PreTrainedModel, batch: Batch, allocate: Allocate = in_memory
) -> TeacherMeanRows:
    """Return a batch with the teacher's mean rows; its LM head is in float32, without a cap."""
    head = lm_head(upper)
    return TeacherMeanRows(batch, _cache(upper, batch, allocate, partial(_mean_rows, head)))


@torch.no_grad()
def _cache(
    upper: PreTrainedModel, batch: Batch, allocate: Allocate, function: Callable[[Tensor], Tensor]
) -> Float[Tensor, "batch target any"]:
    """Return a function of the states at all target positions, padded at the end with zeros."""
    max_targets, cached = int(batch.target_mask.sum(dim=1).max()), None
    for covered in batch.microbatch_slices(SEQUENCES):
        part = batch[covered]
        values = function(last_hidden(upper, part)[part.target_mask])  # (target, any)
        if cached is None:
            cached = allocate((len(batch), max_targets, values.shape[-1]), values)
        padded = values.new_zeros(len(part), max_targets, values.shape[-1])
        index = to_device_of(_unpadded(part, max_targets), values)
        cached[covered] = padded.flatten(0, 1).index_copy_(0, index, values).view(padded.shape)
    assert cached is not None, "a batch has at least one sequence"
    return cached


def _mean_rows(head: LMHead, states: Float[Tensor, "target hidden"]) -> Float[Tensor, "target row"]:
    mean_rows = []
    for part in states.split(POSITIONS):
        log_p = head(part).log_softmax(dim=-1)
        p = log_p.exp()
        offset = log_p.mul_(p).sum(dim=-1, keepdim=True)
        if head.bias is not None:
            offset -= (p @ head.bias[:, None]).mul_(head.scale)
        mean_rows.append(torch.cat([(p @ head.weight).mul_(head.scale), offset], dim=1))
    return torch.cat(mean_rows)


def _at_targets(
    batch: Batch,
    cached: Float[Tensor, "batch target any"],
    rows: Int[Tensor, " row"],
    states: Float[Tensor, "position hidden"],
) -> Float[Tensor, "position any"]:
    """Return what is cached of some sequences, one row per target position, on states' device."""
    index = _unpadded(Batch(batch.tokens[rows], batch.target_mask[rows]), cached.shape[1])
    return to_device_of(take_rows(take_rows(cached, rows).flatten(0, 1), index), states)


def _unpadded(batch: Batch, max_targets: int) -> Int[Tensor, " position"]:
    """Return which rows of a flattened (sequence, target) tensor are not padding."""
    count = batch.target_mask.sum(dim=1, keepdim=True)
    return flat_nonzero(torch.arange(max_targets, device=count.device) < count)


GOLDEN = (math.sqrt(5) - 1) / 2
"""Golden ratio: its multiples modulo 1 are spread evenly, whatever run of them is taken."""
MIN_OBJECTS = 3
"""Objects needed for a standard deviation over the others than the answer."""


@dataclass(frozen=True)
class Ignorance:
    """What the original model answers when it is asked about unrelated subjects."""

    prior: Float[Tensor, " vocab"]
    """Log of its mean probability of each token over control prompts [nats]."""
    objects: Int[Tensor, " object"]
    """First tokens of the objects of control and target facts."""
    targets: Int[Tensor, " target"]
    """First tokens of the target's objects."""
    object_zscores: Float[Tensor, "statement target"]
    """Per target statement and object of the target: z-score of the object's logit among all
    objects for an unrelated subject, that subject's own object left out. An unknown object
    sometimes ranks first by chance; the z-scores reproduce that."""


MatchControls = Callable[[Float[Tensor, "control statement"]], Int[Tensor, " statement"]]
"""Z-score of each target statement's object when each control statement is asked -> the control
statement that each target statement takes its z-scores from; both on the CPU."""


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
    matched = match(zscores[:, torch.searchsorted(objects, labels)])
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


def match_controls(
    target: Sequence[Statement],
    control: Sequence[Statement],
    generator: torch.Generator,
    zscores: Float[Tensor, "control statement"],
) -> Int[Tensor, " statement"]:
    """Return which control statement stands in for each target statement: a subject per fact.

    Subjects are not drawn independently. The control subjects are sorted by their z-score of a
    fact's object, and the fact gets the one at its quantile. Each quantile (k + 1/2) / facts is
    used once and they are spread evenly over facts that share an object; by chance alone some
    targets would stay more recognizable than ignorance makes them, others less.

    Each relation is matched by itself: what is not known of the capital of France is what a model
    answers about another country's capital, not about a currency. A relation that no control fact
    has is matched with all of them.

    Args:
        target: The target statements.
        control: The control statements.
        generator: Source of randomness.
        zscores: Z-score of each target statement's object when each control statement is asked.

    Returns:
        Indices of `control`: all prompts of a fact get prompts of one control fact, in the same
        template family if it has that.

    Source:
        Quantiles in the order of multiples of the golden ratio, a sequence of low discrepancy
        (Kuipers and Niederreiter 1974, chapter 2.3).
    """
    control_rows, target_rows = _rows_by_fact(control), _rows_by_fact(target)
    # Z-scores of a control fact are the mean over its prompts: (control fact, statement).
    by_fact = torch.stack([zscores[list(r.values())].mean(dim=0) for r in control_rows.values()])
    facts, stand_ins = list(target_rows), list(control_rows)
    shuffled = [facts[i] for i in torch.randperm(len(facts), generator=generator).tolist()]
    matched = torch.zeros(len(target), dtype=torch.long)
    for relation in dict.fromkeys(fact.relation for fact in facts):
        asked = [fact for fact in shuffled if fact.relation == relation]
        alike = [i for i, fact in enumerate(stand_ins) if fact.relation == relation]
        rows = torch.tensor(alike or range(len(stand_ins)))
        for fact, quantile in _spread_quantiles(asked):
            zscore = by_fact[rows, next(iter(target_rows[fact].values()))]
            chosen = rows[zscore.argsort(stable=True)[int(quantile * len(rows))]]
            prompts = control_rows[stand_ins[int(chosen)]]
            for family, row in target_rows[fact].items():
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


# Which tokens the losses compare where the vocabulary is large. With one of 262,144 the head is a
# third of a step's operations. The losses then compare the distributions over some tokens alone,
# renormalized, and what is left out is free to change. Tokens that occur in the search's sequences
# are not enough: nothing would keep the answers to *other* questions. So the tokens that the
# original model thinks likely are compared, too.

TEXT = "text"
"""Name of the batch of text blocks."""
LIKELIEST = 100
"""Tokens per target position that are compared beside those that occur: the likeliest."""


@torch.no_grad()
def likely_tokens(upper: PreTrainedModel, batch: Batch, number: int) -> Int[Tensor, " token"]:
    """Return the tokens among the `number` likeliest at any target position, on the CPU."""
    head, found = lm_head(upper), torch.zeros(0, dtype=torch.long)
    for covered in batch.microbatch_slices(SEQUENCES):
        part = batch[covered]
        for states in last_hidden(upper, part)[part.target_mask].split(POSITIONS):
            likeliest = head(states).topk(number, dim=-1).indices
            found = torch.cat([found, likeliest.flatten().cpu()]).unique()
    return found


def compared_tokens_only(
    upper: PreTrainedModel, batches: Mapping[str, Batch], likeliest: int = LIKELIEST
) -> tuple[PreTrainedModel, dict[str, Batch]]:
    """Return a model whose LM head has the tokens of some batches alone, and these renumbered.

    They are the tokens that occur, and those that the original model thinks likely after the prompt
    of a fact. Text has too many positions for that. Validation and evidence read the whole head.

    Args:
        upper: The upper blocks; it keeps its own head.
        batches: The batches by name, with lower states: their tokens are read as labels alone.
        likeliest: Tokens per target position that are kept beside those that occur.

    Returns:
        A shallow copy with a head of the tokens in ascending order, and the batches renumbered.

    Raises:
        ValueError: If a batch has no lower states.
    """
    if any(batch.lower_states is None for batch in batches.values()):
        raise ValueError("tokens are renumbered after the lower states are cached")
    occurring = [batch.tokens.flatten() for batch in batches.values()]
    asked = [batch for name, batch in batches.items() if name != TEXT]
    likely = [likely_tokens(upper, batch, likeliest) for batch in asked]
    tokens = torch.cat([*occurring, *likely]).unique()
    whole = upper.get_output_embeddings()
    rows = tokens.to(whole.weight.device)
    head = nn.Linear(whole.in_features, len(tokens), bias=whole.bias is not None, device="meta")
    head.weight = nn.Parameter(whole.weight[rows], requires_grad=False)
    if whole.bias is not None:
        head.bias = nn.Parameter(whole.bias[rows], requires_grad=False)
    twin = copy.copy(upper)
    twin._modules = dict(upper._modules)
    twin.set_output_embeddings(head)
    renumbered = {
        name: replace(batch, tokens=torch.searchsorted(tokens, batch.tokens))
        for name, batch in batches.items()
    }
    return twin, renumbered
