"""Whether facts outside the target keep their answers: neighbourhood, control, other targets, equal damage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.evaluation.context import BUCKET, EncodedFacts, EvalContext, ScoreSet, score_facts
from knowsub.evaluation.metrics import Metrics, fact_difference
from knowsub.kg.facts import Role, Split, Statement
from knowsub.lm.score import Scores, target_logits
from knowsub.masks.mask import Mask

HELD_OUT = {"near": "near", "far": "heldout"}
"""Name of the figure -> set: held-out facts that share a word with the target, and the others."""


@dataclass(frozen=True)
class AnswerDistribution:
    """Whole distributions of the original model at the tail positions of a set."""

    items: EncodedFacts
    """The items."""
    log_p: tuple[Float[Tensor, "read vocab"], ...]
    """Log-probabilities of each bucket, row-major over its read positions [nats]."""


@torch.no_grad()
def answers(model: PreTrainedModel, items: EncodedFacts) -> AnswerDistribution:
    """Return the distributions of the model as it is now.

    Args:
        model: The upper blocks.
        items: The items.

    Returns:
        The distributions, kept on the model's device.
    """
    buckets = []
    for batch in items.batches:
        parts = [
            logits.float().log_softmax(-1) for _, logits, _ in target_logits(model, batch, BUCKET)
        ]
        buckets.append(torch.cat(parts))
    return AnswerDistribution(items, tuple(buckets))


@torch.no_grad()
def divergence(
    model: PreTrainedModel, original: AnswerDistribution
) -> tuple[Float[Tensor, " statement"], Float[Tensor, " statement"]]:
    """Return how far the model, as it is now, is from the original.

    Args:
        model: The upper blocks.
        original: The distributions of the original model.

    Returns:
        Per statement, mean over its tail positions: KL(original || model) [nats], and the share
        of positions with the same top answer [fraction].
    """
    kl, same = [], []
    for batch, log_p in zip(original.items.batches, original.log_p, strict=True):
        parts = [
            logits.float().log_softmax(-1) for _, logits, _ in target_logits(model, batch, BUCKET)
        ]
        log_q = torch.cat(parts)
        kl.append(_per_row(batch.target_mask, (log_p.exp() * (log_p - log_q)).sum(-1)))
        same.append(_per_row(batch.target_mask, (log_p.argmax(-1) == log_q.argmax(-1)).float()))
    order = torch.cat(original.items.rows).argsort()
    return torch.cat(kl)[order], torch.cat(same)[order]


def _per_row(reads: Tensor, values: Tensor) -> Tensor:
    table = torch.zeros(reads.shape, device=reads.device).masked_scatter(reads, values)
    return (table.sum(dim=1) / reads.sum(dim=1)).cpu()


def specificity(
    bench: EvalContext, original: Mapping[str, AnswerDistribution], changed: ScoreSet
) -> Metrics:
    """Return how far held-out facts, near and far, have moved.

    For `near` and `far`: `_kl`, mean KL(original || now) at tail positions [nats]; `_agreement`,
    share of tail positions with the same top answer; `_absolute_dnll`, mean over facts of the
    absolute change in NLL [nats per tail token].

    Args:
        bench: The bench.
        original: `near` and `far` -> distributions of the original model.
        changed: What the model, as it is now, says about the same sets.

    Returns:
        The figures.
    """
    finding = Metrics()
    for name, source in HELD_OUT.items():
        if name not in original:
            finding.skipped[f"{name}_kl"] = f"there is no {name} held-out fact"
            continue
        items = original[name].items
        kl, same = divergence(bench.upper, original[name])
        finding.add(f"{name}_kl", items.per_fact(kl))
        finding.add(f"{name}_agreement", items.per_fact(same))
        moved = fact_difference(items, changed.sets[source], bench.original.sets[source]).abs()
        finding.add(f"{name}_absolute_dnll", moved)
    return finding


@dataclass(frozen=True)
class Damage:
    """What removing one mask did."""

    target: float
    """Mean dNLL over the target facts [nats per tail token]."""
    control: float
    """Mean dNLL over held-out control facts [nats per tail token]."""


def control_set(bench: EvalContext) -> str:
    """Return the set that damage to the controls is taken on: held-out facts where there are."""
    return "heldout" if "heldout" in bench.sets else "control"


def damage(bench: EvalContext, mask: Mask) -> Damage:
    """Return what removing a mask does to the target and to held-out control facts.

    Args:
        bench: The bench, its model at the original weights.
        mask: The mask.

    Returns:
        Both damages; control facts of the training split stand in where none are held out.
    """
    control = control_set(bench)
    with bench.ablated(mask):
        now = bench.score(sets=("target", control), texts=())
    means = [
        float(fact_difference(bench.sets[name], now.sets[name], bench.original.sets[name]).mean())
        for name in ("target", control)
    ]
    return Damage(*means)


def at_equal_damage(sizes: Sequence[Damage], control: float) -> float:
    """Return how much a method damages the target when it damages the controls so much.

    Sizes are joined by straight lines, from no damage at size 0. Where damage to the controls
    does not grow with size, the better of the two sizes for the method counts.

    Args:
        sizes: Damage at each size that was tried.
        control: Damage to the controls at which methods are compared [nats per tail token].

    Returns:
        Damage to the target [nats per tail token]; beyond the largest size tried, that size's.
    """
    points = sorted([(0.0, 0.0), *((max(one.control, 0.0), one.target) for one in sizes)])
    at = np.array([point[0] for point in points])
    best = np.maximum.accumulate([point[1] for point in points])
    return float(np.interp(max(control, 0.0), at, best))


SMALLEST = 1e-3
"""Mean off-diagonal damage that is told from none [nats]; it bounds the dominance."""

OtherTarget = dict[str, tuple[EncodedFacts, Scores]]
"""Target -> its items and the original model's scores on them."""


def other_targets(bench: EvalContext, statements: Mapping[str, Sequence[Statement]]) -> OtherTarget:
    """Return the facts of other targets, cached and scored; the original weights must be in place.

    Args:
        bench: The bench of this target.
        statements: Name of each other target -> its statements.

    Returns:
        Their target facts on training families, facts of this bench's own target left out;
        targets without any others are passed over.
    """
    own = {fact.key for fact in bench.sets["target"].facts}
    result: OtherTarget = {}
    for name, rows in statements.items():
        chosen = [
            one
            for one in rows
            if one.split == Split.TARGET and one.role == Role.TRAIN and one.fact.key not in own
        ]
        if chosen:
            items = bench.encoder.encode(chosen)
            result[name] = (items, score_facts(bench.upper, items))
    return result


def cross_row(bench: EvalContext, others: OtherTarget) -> dict[str, float]:
    """Return one row of the cross matrix without its diagonal, of the model as it is now.

    Args:
        bench: The bench of the target whose subnetwork is removed now.
        others: The other targets.

    Returns:
        Target -> dNLL, mean over its facts [nats per tail token].
    """
    return {
        name: float(fact_difference(items, score_facts(bench.upper, items), original).mean())
        for name, (items, original) in others.items()
    }


def row_dominance(own: float, others: Mapping[str, float]) -> float:
    """Return how much more one subnetwork damages its own target than the others.

    Args:
        own: dNLL on its own target [nats].
        others: dNLL on each other target, at least one [nats].

    Returns:
        Own damage over the mean absolute damage to the others, which is taken as at least 0.001
        nat.
    """
    apart = [abs(value) for value in others.values()]
    return own / max(sum(apart) / len(apart), SMALLEST)


def diagonal_dominance(matrix: Mapping[str, Mapping[str, float]]) -> float:
    """Return mean diagonal over mean absolute off-diagonal of a cross matrix.

    Args:
        matrix: E[a][b]: dNLL on target b after removing the subnetwork of a [nats].

    Returns:
        The ratio; the denominator is at least 0.001 nat.

    Raises:
        ValueError: If there are fewer than two targets, or the matrix is not square.
    """
    if len(matrix) < 2 or any(row.keys() != matrix.keys() for row in matrix.values()):
        raise ValueError("diagonal dominance needs a square matrix over at least two targets")
    own = sum(matrix[a][a] for a in matrix) / len(matrix)
    apart = [abs(matrix[a][b]) for a in matrix for b in matrix if a != b]
    return own / max(sum(apart) / len(apart), SMALLEST)
