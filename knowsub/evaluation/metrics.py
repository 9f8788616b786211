"""Metrics of one state of the model beside the original: perplexity, forgetting, paraphrases."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.evaluation.context import (
    TARGET_SETS,
    EncodedFacts,
    EvalContext,
    PrefixEncoder,
    ScoreSet,
    best_prompts,
)
from knowsub.evaluation.objects import ask, has_other_subject, pair_nll
from knowsub.kg.facts import Fact, Statement
from knowsub.lm.score import Scores


@dataclass(frozen=True)
class PerFactValues:
    """The values per fact that a figure is the mean of, for its interval."""

    values: tuple[float, ...]
    """One value per fact."""
    exponential: bool = False
    """True if the figure is the exponential of the mean (a PPL ratio)."""

    def scaled(self, mean: float) -> float:
        """Return a mean of such values, such as the end of an interval, as the figure shows it."""
        return math.exp(mean) if self.exponential else mean


@dataclass
class Metrics:
    """Figures by name, what their intervals are computed from, and what could not be computed."""

    values: dict[str, float] = field(default_factory=dict)
    """Name -> value; units stand in the docstring of the function that computes it."""
    per_fact: dict[str, PerFactValues] = field(default_factory=dict)
    """Figure name -> its values per fact."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Figure or group name -> why it is missing, or how many facts it leaves out."""

    def add(self, name: str, values: Tensor, exponential: bool = False) -> None:
        """Add a figure that is a mean over facts, with its sample.

        Args:
            name: Name of the figure.
            values: One value per fact, at least one.
            exponential: True if the figure is exp of the mean.
        """
        mean = values.double().mean()
        self.values[name] = float(mean.exp() if exponential else mean)
        self.per_fact[name] = PerFactValues(tuple(values.double().tolist()), exponential)

    def __or__(self, other: Metrics) -> Metrics:
        """Return both findings as one; the other's entries win."""
        return Metrics(
            self.values | other.values, self.per_fact | other.per_fact, self.skipped | other.skipped
        )


def merge_metrics(findings: Iterable[Metrics]) -> Metrics:
    """Return several findings as one; later entries win.

    Args:
        findings: The findings.

    Returns:
        Their union.
    """
    result = Metrics()
    for finding in findings:
        result = result | finding
    return result


def ppl_ratio(changed: Scores, original: Scores) -> float:
    """Return PPL over PPL on the same items.

    Args:
        changed: Scores of the state that is judged.
        original: Scores of the original model.

    Returns:
        Ratio of exp(token-weighted mean NLL); 1 = unchanged.
    """
    return changed.perplexity / original.perplexity


def fact_difference(
    items: EncodedFacts, changed: Scores, original: Scores
) -> Float[Tensor, " fact"]:
    """Return how much worse each fact has become.

    Args:
        items: The items that were scored.
        changed: Scores of the state that is judged.
        original: Scores of the original model.

    Returns:
        dNLL per fact, mean over its prompts [nats per tail token].
    """
    return items.per_fact(changed.mean_nll.double() - original.mean_nll.double())


def perplexity(bench: EvalContext, changed: ScoreSet) -> Metrics:
    """Return the figures of every set and text in a view.

    For each set: `<set>_ppl_ratio`; `<set>_dnll`, the mean over facts [nats per tail token];
    `<set>_nll` and `<set>_original_nll`, token-weighted means [nats per token];
    `<set>_median_rank`, the median over statements of the 0-based vocabulary rank (worst token of
    the tail); `<set>_accuracy`, the share of statements whose tail is the top answer. The samples
    behind the intervals are per fact and unweighted, which for one-token tails is the same.
    For each text: `<text>_ppl_ratio`, `<text>_nll`, `<text>_original_nll`.

    Args:
        bench: The bench.
        changed: What the judged state says.

    Returns:
        The figures.
    """
    finding = Metrics()
    for name, scores in changed.sets.items():
        original, items = bench.original.sets[name], bench.sets[name]
        difference = fact_difference(items, scores, original)
        finding.add(f"{name}_ppl_ratio", difference, exponential=True)
        finding.add(f"{name}_dnll", difference)
        finding.add(f"{name}_accuracy", items.per_fact(scores.correct))
        finding.values |= _compared(name, scores, original)
        finding.values[f"{name}_median_rank"] = float(scores.rank.double().quantile(0.5))
        finding.values[f"{name}_original_accuracy"] = float(original.correct.double().mean())
        finding.values[f"{name}_original_median_rank"] = float(original.rank.double().quantile(0.5))
    for name, scores in changed.texts.items():
        finding.values |= _compared(name, scores, bench.original.texts[name])
    return finding


def _compared(name: str, changed: Scores, original: Scores) -> dict[str, float]:
    return {
        f"{name}_ppl_ratio": ppl_ratio(changed, original),
        f"{name}_nll": float(changed.nll.double().sum() / changed.tokens.sum()),
        f"{name}_original_nll": float(original.nll.double().sum() / original.tokens.sum()),
    }


KNOWN = 0.1
"""A fact counts as known if its tail is likelier than under the prior by this much [nats]."""


@dataclass(frozen=True)
class KnownFacts:
    """What the original model knew of the facts of one set."""

    items: EncodedFacts
    """The items."""
    nll: Float[Tensor, " fact"]
    """l_F: NLL under the original model, mean over prompts [nats per tail token]."""
    prior: Float[Tensor, " fact"]
    """l_0: NLL under the prior over tails [nats per tail token]."""

    @property
    def known(self) -> Bool[Tensor, " fact"]:
        """True where the original model knew the fact: l_0 - l_F >= 0.1 nat."""
        return self.prior - self.nll >= KNOWN


def prior_over_objects(
    reader: PrefixEncoder,
    upper: PreTrainedModel,
    items: EncodedFacts,
    pool: list[Statement],
    heads: int,
    generator: torch.Generator,
) -> Float[Tensor, " fact"]:
    """Return l_0 of each fact: its tail's NLL when the original model is asked about other heads.

    l_0(i) = -(1/m) log of the mean of P_F(tail i | prompt) over the other facts of the relation,
    each asked about by its prompt of lowest NLL. Heads that share the tail count too: they make it
    frequent.

    Args:
        reader: The original model and where it is cut.
        upper: Its upper blocks, with the original weights in place.
        items: Items of the facts.
        pool: Statements of all facts, in the template families of the items.
        heads: Other heads at most, drawn without replacement; 0 = all.
        generator: Source of randomness.

    Returns:
        NLL per tail token [nats]; infinite for a fact whose relation has no other head.
    """
    asked = _some_heads(pool, {fact.relation for fact in items.facts}, heads, generator)
    tails = list(dict.fromkeys(statement.object for statement in items.statements))
    result = torch.full((len(items.facts),), float("inf"), dtype=torch.float64)
    if not asked:
        return result
    grid = torch.cartesian_prod(torch.arange(len(asked)), torch.arange(len(tails)))
    pairs = ask(reader, asked, tails, grid)
    per_token = pair_nll(upper, pairs).double().view(len(asked), len(tails))
    log_p = -per_token * pairs.length
    text = {statement.fact: statement.object for statement in items.statements}
    for index, fact in enumerate(items.facts):
        others = torch.tensor([has_other_subject(one.fact, fact) for one in asked])
        if bool(others.any()):
            column = tails.index(text[fact])
            mean = log_p[others, column].logsumexp(dim=0) - others.sum().log()
            result[index] = -mean / pairs.length[column]
    return result


def _some_heads(
    pool: list[Statement], relations: set[str], most: int, generator: torch.Generator
) -> list[Statement]:
    eligible = best_prompts([one for one in pool if one.fact.relation in relations], 1)
    heads = list(dict.fromkeys(one.fact.subject for one in eligible))
    order = torch.randperm(len(heads), generator=generator).tolist()
    kept = {heads[index] for index in order[: most or None]}
    return [one for one in eligible if one.fact.subject in kept]


def forgotten_share(
    changed: Float[Tensor, " fact"], original: Float[Tensor, " fact"], prior: Float[Tensor, " fact"]
) -> Float[Tensor, " fact"]:
    """Return clip((l_R - l_F) / (l_0 - l_F), 0, 1) of facts that were known.

    Args:
        changed: l_R, NLL under the state that is judged [nats per tail token].
        original: l_F, NLL under the original model [nats per tail token].
        prior: l_0, NLL under the prior over tails, above l_F [nats per tail token].

    Returns:
        Forgetting per fact, 0 = kept, 1 = no better than the prior. It saturates early: read it
        beside rank, choice and head information.
    """
    return ((changed - original) / (prior - original)).clamp(0.0, 1.0)


def forgetting(name: str, known: KnownFacts, changed: Scores) -> Metrics:
    """Return mean forgetting over the facts that were known; the others are counted.

    Args:
        name: Name of the figure, such as `forgetting`.
        known: What the original model knew.
        changed: Scores of the judged state on the same items.

    Returns:
        `<name>` [fraction] and `<name>_unknown`, the number of facts that were never known.
    """
    finding, keep = Metrics(), known.known
    unknown = int((~keep).sum())
    finding.values[f"{name}_unknown"] = float(unknown)
    if unknown:
        finding.skipped[f"{name}_facts"] = f"{unknown} facts were never known and are left out"
    if bool(keep.any()):
        nll = known.items.per_fact(changed.mean_nll)
        finding.add(name, forgotten_share(nll[keep], known.nll[keep], known.prior[keep]))
    else:
        finding.skipped[name] = "no fact was known to the original model"
    return finding


TOPS = (1, 10)
"""How many top answers count as extraction."""


def paraphrase(bench: EvalContext, changed: ScoreSet) -> Metrics:
    """Return how suppression carries over to unseen prompts, and the worst case over all.

    `paraphrase_ratio`: dNLL on the unseen template families over dNLL on the trained ones; 1 =
    the same. `extraction_top1` and `extraction_top10`: share of target facts whose tail is among
    the top answers after *any* prompt of any family, every token of a longer tail counted.

    Args:
        bench: The bench.
        changed: What the judged state says about the target's sets.

    Returns:
        The figures.
    """
    finding = Metrics()
    difference = {
        name: float(fact_difference(bench.sets[name], scores, bench.original.sets[name]).mean())
        for name, scores in changed.sets.items()
        if name in TARGET_SETS
    }
    if "paraphrase" not in difference:
        finding.skipped["paraphrase"] = "there is no statement in a test family"
    elif difference["target"] <= 0:
        finding.skipped["paraphrase_ratio"] = "the target facts are not suppressed at all"
    else:
        finding.values["paraphrase_ratio"] = difference["paraphrase"] / difference["target"]
    ranks = {name: scores.rank for name, scores in changed.sets.items() if name in TARGET_SETS}
    best = best_ranks(bench.sets, ranks)
    for top in TOPS:
        hit = torch.tensor([float(rank < top) for rank in best.values()])
        finding.add(f"extraction_top{top}", hit)
    return finding


def best_ranks(
    sets: Mapping[str, EncodedFacts], ranks: Mapping[str, Int[Tensor, " statement"]]
) -> dict[Fact, int]:
    """Return the best rank of each fact's tail over all prompts of all sets.

    Args:
        sets: Name -> items.
        ranks: Name -> 0-based vocabulary rank per statement.

    Returns:
        Fact -> 0-based rank.
    """
    best: dict[Fact, int] = {}
    for name, values in ranks.items():
        for statement, rank in zip(sets[name].statements, values.tolist(), strict=True):
            best[statement.fact] = min(rank, best.get(statement.fact, rank))
    return best
