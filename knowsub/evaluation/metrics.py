"""Metrics of one state of the model beside the original."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from knowsub.evaluation.context import (
    BUCKET,
    TARGET_SETS,
    EncodedFacts,
    EvalContext,
    ScoreSet,
    best_prompts,
    fact_dnll,
    score_facts,
)
from knowsub.evaluation.objects import encode_pairs, has_other_subject, pair_nll
from knowsub.kg.facts import Fact, Role, Split, Statement
from knowsub.lm.batch import Batch
from knowsub.lm.score import Scores, target_logits
from knowsub.masks.mask import Mask


@dataclass(frozen=True)
class PerFactValues:
    """The values per fact that a metric is the mean of, for its interval."""

    values: tuple[float, ...]
    """One value per fact."""
    exponential: bool = False
    """True if the metric is the exponential of the mean (a PPL ratio)."""

    def scaled(self, mean: float) -> float:
        """Return a mean of such values, such as an end of an interval, in the metric's unit."""
        return math.exp(mean) if self.exponential else mean


@dataclass
class Metrics:
    """Metrics by name, what their intervals are computed from, and what could not be computed."""

    values: dict[str, float] = field(default_factory=dict)
    """Name -> value; units stand in the docstring of the function that computes it."""
    per_fact: dict[str, PerFactValues] = field(default_factory=dict)
    """Name -> its values per fact, where it is a mean over facts."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Metric or group name -> why it is missing, or how many facts it leaves out."""

    def add(self, name: str, values: Tensor, exponential: bool = False) -> None:
        """Add a metric that is the mean, or exp of the mean, of one value per fact."""
        mean = values.double().mean()
        self.values[name] = float(mean.exp() if exponential else mean)
        self.per_fact[name] = PerFactValues(tuple(values.double().tolist()), exponential)

    def __or__(self, other: Metrics) -> Metrics:
        """Return the union of both; the other's entries win."""
        return Metrics(
            self.values | other.values, self.per_fact | other.per_fact, self.skipped | other.skipped
        )


def median(values: Tensor) -> float:
    """Return the median, midway between the middle two where their number is even."""
    return float(values.double().quantile(0.5))


def ppl_ratio(changed: Scores, original: Scores) -> float:
    """Return PPL over PPL on the same sequences; PPL = exp(token-weighted mean NLL)."""
    return changed.perplexity / original.perplexity


def perplexity(context: EvalContext, changed: ScoreSet) -> Metrics:
    """Return perplexity, NLL, rank and accuracy of every set, perplexity and NLL of every text.

    For each set: `<set>_ppl_ratio`; `<set>_dnll`, the mean over facts [nats per object token];
    `<set>_nll` and `<set>_original_nll`, token-weighted means [nats per token];
    `<set>_median_rank`, the median over statements of the 0-based vocabulary rank (worst token of
    the object); `<set>_accuracy`, the share of statements whose object is the top answer. The
    values behind the intervals are per fact and unweighted, which for one-token objects is the
    same. For each text: `<text>_ppl_ratio`, `<text>_nll`, `<text>_original_nll`.
    """
    metrics = Metrics()
    for name, scores in changed.sets.items():
        original, dnll = context.original.sets[name], context.dnll(name, scores)
        metrics.add(f"{name}_ppl_ratio", dnll, exponential=True)
        metrics.add(f"{name}_dnll", dnll)
        metrics.add(f"{name}_accuracy", context.sets[name].per_fact(scores.correct))
        metrics.values |= _nll_metrics(name, scores, original)
        metrics.values[f"{name}_median_rank"] = median(scores.rank)
        metrics.values[f"{name}_original_accuracy"] = float(original.correct.double().mean())
        metrics.values[f"{name}_original_median_rank"] = median(original.rank)
    for name, scores in changed.texts.items():
        metrics.values |= _nll_metrics(name, scores, context.original.texts[name])
    return metrics


def _nll_metrics(name: str, changed: Scores, original: Scores) -> dict[str, float]:
    """Return the token-weighted metrics of one set or text."""
    return {
        f"{name}_ppl_ratio": ppl_ratio(changed, original),
        f"{name}_nll": float(changed.nll.double().sum() / changed.tokens.sum()),
        f"{name}_original_nll": float(original.nll.double().sum() / original.tokens.sum()),
    }


KNOWN_MARGIN = 0.1
"""A fact counts as known if its object is likelier than under the prior by this much [nats]."""


@dataclass(frozen=True)
class KnownFacts:
    """What the original model knew of the facts of one set."""

    facts: EncodedFacts
    """The facts."""
    nll: Float[Tensor, " fact"]
    """l_F: NLL under the original model, mean over prompts [nats per object token]."""
    prior: Float[Tensor, " fact"]
    """l_0: NLL under the prior over objects [nats per object token]."""

    @property
    def known(self) -> Bool[Tensor, " fact"]:
        """True where the original model knew the fact: l_0 - l_F >= 0.1 nat."""
        return self.prior - self.nll >= KNOWN_MARGIN


def prior_over_objects(
    context: EvalContext,
    facts: EncodedFacts,
    statements: Sequence[Statement],
    n_subjects: int,
    generator: torch.Generator,
) -> Float[Tensor, " fact"]:
    """Return l_0 of each fact: its object's NLL when the original model sees other subjects.

    l_0(i) = -(1/m) log of the mean of P_F(object i | prompt) over the other facts of the relation,
    each with its prompt of lowest NLL among `statements` (all facts, in the template families of
    `facts`). At most `n_subjects` other subjects, drawn without replacement; 0 = all. Subjects
    that share the object count too: they make it frequent. Infinite [nats per object token] for a
    fact whose relation has no other subject.
    """
    relations = {fact.relation for fact in facts.facts}
    prompts = _draw_subjects(statements, relations, n_subjects, generator)
    l0 = torch.full((len(facts.facts),), float("inf"), dtype=torch.float64)
    if not prompts:
        return l0
    objects = list(dict.fromkeys(s.object for s in facts.statements))
    grid = torch.cartesian_prod(torch.arange(len(prompts)), torch.arange(len(objects)))
    pairs = encode_pairs(context.encoder, prompts, objects, grid)
    per_token = pair_nll(context.upper, pairs).double().view(len(prompts), len(objects))
    log_p = -per_token * pairs.n_tokens
    column = {s.fact: objects.index(s.object) for s in facts.statements}
    for index, fact in enumerate(facts.facts):
        others = torch.tensor([has_other_subject(prompt.fact, fact) for prompt in prompts])
        if bool(others.any()):
            mean = log_p[others, column[fact]].logsumexp(dim=0) - others.sum().log()
            l0[index] = -mean / pairs.n_tokens[column[fact]]
    return l0


def _draw_subjects(
    statements: Sequence[Statement], relations: set[str], limit: int, generator: torch.Generator
) -> list[Statement]:
    """Return the best statement of each fact of randomly drawn subjects of some relations."""
    eligible = best_prompts([s for s in statements if s.fact.relation in relations], 1)
    subjects = list(dict.fromkeys(s.fact.subject for s in eligible))
    order = torch.randperm(len(subjects), generator=generator).tolist()
    drawn = {subjects[index] for index in order[: limit or None]}
    return [s for s in eligible if s.fact.subject in drawn]


def forgotten_share(
    changed: Float[Tensor, " fact"], original: Float[Tensor, " fact"], prior: Float[Tensor, " fact"]
) -> Float[Tensor, " fact"]:
    """Return clip((l_R - l_F) / (l_0 - l_F), 0, 1) of known facts: 0 = kept, 1 = as the prior.

    It saturates early: read it beside rank, choice and identifiability.
    """
    return ((changed - original) / (prior - original)).clamp(0.0, 1.0)


def forgetting(name: str, known: KnownFacts, changed: Scores) -> Metrics:
    """Return `<name>`, mean forgetting [fraction] over the facts that were known.

    `<name>_unknown` is the number of facts that were never known; they are left out.
    """
    metrics, mask = Metrics(), known.known
    unknown = int((~mask).sum())
    metrics.values[f"{name}_unknown"] = float(unknown)
    if unknown:
        metrics.skipped[f"{name}_facts"] = f"{unknown} facts were never known and are left out"
    if bool(mask.any()):
        nll = known.facts.per_fact(changed.mean_nll)
        metrics.add(name, forgotten_share(nll[mask], known.nll[mask], known.prior[mask]))
    else:
        metrics.skipped[name] = "no fact was known to the original model"
    return metrics


EXTRACTION_TOPS = (1, 10)
"""How many top answers count as extraction."""


def paraphrase(context: EvalContext, changed: ScoreSet) -> Metrics:
    """Return how suppression carries over to unseen prompts, and the worst case over all.

    `paraphrase_ratio`: dNLL on the unseen template families over dNLL on the trained ones; 1 =
    the same. `extraction_top1` and `extraction_top10`: share of target facts whose object is among
    the top answers after *any* prompt of any family, every token of a longer object counted.
    """
    metrics = Metrics()
    scores = {name: changed.sets[name] for name in TARGET_SETS if name in changed.sets}
    dnll = {name: float(context.dnll(name, score).mean()) for name, score in scores.items()}
    if "paraphrase" not in dnll:
        metrics.skipped["paraphrase"] = "there is no statement in a test family"
    elif dnll["target"] <= 0:
        metrics.skipped["paraphrase_ratio"] = "the target facts are not suppressed at all"
    else:
        metrics.values["paraphrase_ratio"] = dnll["paraphrase"] / dnll["target"]
    best = best_ranks(context.sets, {name: score.rank for name, score in scores.items()})
    for top in EXTRACTION_TOPS:
        hit = torch.tensor([float(rank < top) for rank in best.values()])
        metrics.add(f"extraction_top{top}", hit)
    return metrics


def best_ranks(
    sets: Mapping[str, EncodedFacts], ranks: Mapping[str, Int[Tensor, " statement"]]
) -> dict[Fact, int]:
    """Return the best 0-based rank of each fact's object over all prompts of all sets."""
    best: dict[Fact, int] = {}
    for name, values in ranks.items():
        for statement, rank in zip(sets[name].statements, values.tolist(), strict=True):
            best[statement.fact] = min(rank, best.get(statement.fact, rank))
    return best


HELD_OUT = {"neighborhood": "neighborhood", "far": "heldout"}
"""Name in metrics -> set: held-out facts that share a word with the target, and the others."""


@dataclass(frozen=True)
class AnswerDistribution:
    """Whole distributions of the original model at the object positions of a set."""

    facts: EncodedFacts
    """The facts."""
    log_p: tuple[Float[Tensor, "read vocab"], ...]
    """Log-probabilities of each bucket, row-major over its target positions [nats]."""


@torch.no_grad()
def answer_distribution(model: PreTrainedModel, facts: EncodedFacts) -> AnswerDistribution:
    """Return the distributions of the upper blocks as they are now, kept on their device."""
    return AnswerDistribution(facts, tuple(_log_p(model, batch) for batch in facts.batches))


def _log_p(model: PreTrainedModel, batch: Batch) -> Float[Tensor, "read vocab"]:
    """Return the log-probabilities at the target positions of one bucket [nats]."""
    _, logits, _ = next(target_logits(model, batch, BUCKET))  # a bucket is one forward pass
    return logits.float().log_softmax(-1)


@torch.no_grad()
def divergence(
    model: PreTrainedModel, original: AnswerDistribution
) -> tuple[Float[Tensor, " statement"], Float[Tensor, " statement"]]:
    """Return how far the upper blocks, as they are now, are from the original model.

    Per statement, mean over its object positions: KL(original || model) [nats], and the share of
    positions with the same top answer [fraction].
    """
    kl, agreement = [], []
    for batch, log_p in zip(original.facts.batches, original.log_p, strict=True):
        log_q = _log_p(model, batch)
        position_kl = functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
        same_top = (log_p.argmax(-1) == log_q.argmax(-1)).float()
        kl.append(_row_mean(batch.target_mask, position_kl))
        agreement.append(_row_mean(batch.target_mask, same_top))
    return original.facts.in_order(kl), original.facts.in_order(agreement)


def _row_mean(target_mask: Tensor, values: Tensor) -> Float[Tensor, " statement"]:
    """Return the mean over each row's target positions of values that are row-major over them."""
    table = torch.zeros(target_mask.shape, device=target_mask.device)
    table = table.masked_scatter(target_mask, values)
    return (table.sum(dim=1) / target_mask.sum(dim=1)).cpu()


def specificity(
    context: EvalContext, original: Mapping[str, AnswerDistribution], changed: ScoreSet
) -> Metrics:
    """Return how far held-out facts have moved, neighborhood and far ones.

    For `neighborhood` and `far`: `_kl`, mean KL(original || now) at object positions [nats];
    `_agreement`, share of object positions with the same top answer; `_absolute_dnll`, mean over
    facts of the absolute change in NLL [nats per object token].
    """
    metrics = Metrics()
    for name, set_name in HELD_OUT.items():
        if name not in original:
            metrics.skipped[f"{name}_kl"] = f"there is no {name} held-out fact"
            continue
        facts = original[name].facts
        kl, agreement = divergence(context.upper, original[name])
        metrics.add(f"{name}_kl", facts.per_fact(kl))
        metrics.add(f"{name}_agreement", facts.per_fact(agreement))
        dnll = context.dnll(set_name, changed.sets[set_name])
        metrics.add(f"{name}_absolute_dnll", dnll.abs())
    return metrics


@dataclass(frozen=True)
class Damage:
    """What removing one mask did."""

    target: float
    """Mean dNLL over the target facts [nats per object token]."""
    control: float
    """Mean dNLL over held-out control facts [nats per object token]."""


def control_set(context: EvalContext) -> str:
    """Return the set that damage to control facts is taken on: held-out ones where there are."""
    return "heldout" if "heldout" in context.sets else "control"


def damage(context: EvalContext, mask: Mask) -> Damage:
    """Return what removing a mask does to the target and to control facts (`control_set`)."""
    names = ("target", control_set(context))
    with context.ablated(mask):
        now = context.score(sets=names, texts=())
    return Damage(*(float(context.dnll(name, now.sets[name]).mean()) for name in names))


def at_equal_damage(sizes: Sequence[Damage], control: float) -> float:
    """Return a method's damage to the target at the size where control facts lose `control`.

    Sizes are joined by straight lines, from no damage at size 0. Where damage to the control facts
    does not grow with size, the better of the two sizes for the method counts. Beyond the largest
    size tried, that size's damage is returned [nats per object token].
    """
    points = sorted([(0.0, 0.0), *((max(size.control, 0.0), size.target) for size in sizes)])
    controls = np.array([point[0] for point in points])
    best_targets = np.maximum.accumulate([point[1] for point in points])
    return float(np.interp(max(control, 0.0), controls, best_targets))


OtherTargets = dict[str, tuple[EncodedFacts, Scores]]
"""Other target -> its facts and the original model's scores on them."""


def encode_other_targets(
    context: EvalContext, statements: Mapping[str, Sequence[Statement]]
) -> OtherTargets:
    """Return the facts of other targets, encoded and scored; the original weights must be in place.

    `statements` has those of each other target's knowledge graph. Target facts on training
    families count, facts of this context's own target do not; targets without any are left out.
    """
    own = {fact.key for fact in context.sets["target"].facts}
    result: OtherTargets = {}
    for name, rows in statements.items():
        chosen = [
            row
            for row in rows
            if row.split == Split.TARGET and row.role == Role.TRAIN and row.fact.key not in own
        ]
        if chosen:
            facts = context.encoder.encode(chosen)
            result[name] = (facts, score_facts(context.upper, facts))
    return result


def cross_row(context: EvalContext, others: OtherTargets) -> dict[str, float]:
    """Return a row of the cross matrix: other target -> mean dNLL [nats per object token]."""
    return {
        name: float(fact_dnll(facts, score_facts(context.upper, facts), original).mean())
        for name, (facts, original) in others.items()
    }


SMALLEST_DAMAGE = 1e-3
"""Mean damage to other targets is taken as at least this; it bounds the dominance [nats]."""


def row_dominance(own: float, others: Mapping[str, float]) -> float:
    """Return dNLL on the own target over the mean absolute dNLL on the others, one at least."""
    magnitudes = [abs(value) for value in others.values()]
    return own / max(sum(magnitudes) / len(magnitudes), SMALLEST_DAMAGE)
