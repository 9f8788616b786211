"""Forgetting: how far the NLL of a tail has risen towards that of never having known it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.evaluation.bench import best_prompts
from knowsub.evaluation.finding import Finding
from knowsub.evaluation.items import Items, Reader
from knowsub.evaluation.pairs import ask, pair_nll
from knowsub.evaluation.tails import other_head
from knowsub.kg.triple import Statement
from knowsub.lm.score import Scores

KNOWN = 0.1
"""A fact counts as known if its tail is likelier than under the prior by this much [nats]."""


@dataclass(frozen=True)
class Known:
    """What the original model knew of the facts of one set."""

    items: Items
    """The items."""
    nll: Float[Tensor, " fact"]
    """l_F: NLL under the original model, mean over prompts [nats per tail token]."""
    prior: Float[Tensor, " fact"]
    """l_0: NLL under the prior over tails [nats per tail token]."""

    @property
    def known(self) -> Bool[Tensor, " fact"]:
        """True where the original model knew the fact: l_0 - l_F >= 0.1 nat."""
        return self.prior - self.nll >= KNOWN


def prior_over_tails(
    reader: Reader,
    upper: PreTrainedModel,
    items: Items,
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
    tails = list(dict.fromkeys(statement.tail for statement in items.statements))
    result = torch.full((len(items.facts),), float("inf"), dtype=torch.float64)
    if not asked:
        return result
    grid = torch.cartesian_prod(torch.arange(len(asked)), torch.arange(len(tails)))
    pairs = ask(reader, asked, tails, grid)
    per_token = pair_nll(upper, pairs).double().view(len(asked), len(tails))
    log_p = -per_token * pairs.length
    text = {statement.fact: statement.tail for statement in items.statements}
    for index, fact in enumerate(items.facts):
        others = torch.tensor([other_head(one.fact, fact) for one in asked])
        if bool(others.any()):
            column = tails.index(text[fact])
            mean = log_p[others, column].logsumexp(dim=0) - others.sum().log()
            result[index] = -mean / pairs.length[column]
    return result


def _some_heads(
    pool: list[Statement], relations: set[str], most: int, generator: torch.Generator
) -> list[Statement]:
    eligible = best_prompts([one for one in pool if one.fact.relation in relations], 1)
    heads = list(dict.fromkeys(one.fact.head for one in eligible))
    order = torch.randperm(len(heads), generator=generator).tolist()
    kept = {heads[index] for index in order[: most or None]}
    return [one for one in eligible if one.fact.head in kept]


def forgotten(
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


def forgetting(name: str, known: Known, changed: Scores) -> Finding:
    """Return mean forgetting over the facts that were known; the others are counted.

    Args:
        name: Name of the figure, such as `forgetting`.
        known: What the original model knew.
        changed: Scores of the judged state on the same items.

    Returns:
        `<name>` [fraction] and `<name>_unknown`, the number of facts that were never known.
    """
    finding, keep = Finding(), known.known
    unknown = int((~keep).sum())
    finding.figures[f"{name}_unknown"] = float(unknown)
    if unknown:
        finding.skipped[f"{name}_facts"] = f"{unknown} facts were never known and are left out"
    if bool(keep.any()):
        nll = known.items.per_fact(changed.mean_nll)
        finding.add(name, forgotten(nll[keep], known.nll[keep], known.prior[keep]))
    else:
        finding.skipped[name] = "no fact was known to the original model"
    return finding
