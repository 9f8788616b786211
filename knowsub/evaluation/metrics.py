"""Metrics of one state of the model against the original: perplexity, forgetting, paraphrases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from knowsub.evaluation.context import (
    TARGET_SETS,
    EncodedFacts,
    EvalContext,
    ScoreSet,
    best_prompts,
)
from knowsub.evaluation.objects import encode_pairs, has_other_subject, pair_nll
from knowsub.kg.facts import Fact, Statement
from knowsub.lm.score import Scores


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
