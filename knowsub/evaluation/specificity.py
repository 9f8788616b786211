"""Whether other facts keep their answers: held-out facts, other targets, and at equal damage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from knowsub.evaluation.context import (
    BUCKET,
    EncodedFacts,
    EvalContext,
    ScoreSet,
    fact_dnll,
    score_facts,
)
from knowsub.evaluation.metrics import Metrics
from knowsub.kg.facts import Role, Split, Statement
from knowsub.lm.batch import Batch
from knowsub.lm.score import Scores, target_logits
from knowsub.masks.mask import Mask

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
    """Return one row of the cross matrix without its diagonal, of the model as it is now.

    Other target -> dNLL, mean over its facts [nats per object token].
    """
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
