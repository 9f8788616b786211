"""Whether facts outside the target keep their answers: divergence on near and far facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.evaluation.bench import Bench, View
from knowsub.evaluation.finding import Finding
from knowsub.evaluation.items import BUCKET, Items
from knowsub.evaluation.perplexity import fact_difference
from knowsub.lm.score import read_logits

HELD_OUT = {"near": "near", "far": "heldout"}
"""Name of the figure -> set: held-out facts that share a word with the target, and the others."""


@dataclass(frozen=True)
class Answers:
    """Whole distributions of the original model at the tail positions of a set."""

    items: Items
    """The items."""
    log_p: tuple[Float[Tensor, "read vocab"], ...]
    """Log-probabilities of each bucket, row-major over its read positions [nats]."""


@torch.no_grad()
def answers(model: PreTrainedModel, items: Items) -> Answers:
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
            logits.float().log_softmax(-1) for _, logits, _ in read_logits(model, batch, BUCKET)
        ]
        buckets.append(torch.cat(parts))
    return Answers(items, tuple(buckets))


@torch.no_grad()
def divergence(
    model: PreTrainedModel, original: Answers
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
            logits.float().log_softmax(-1) for _, logits, _ in read_logits(model, batch, BUCKET)
        ]
        log_q = torch.cat(parts)
        kl.append(_per_row(batch.reads, (log_p.exp() * (log_p - log_q)).sum(-1)))
        same.append(_per_row(batch.reads, (log_p.argmax(-1) == log_q.argmax(-1)).float()))
    order = torch.cat(original.items.rows).argsort()
    return torch.cat(kl)[order], torch.cat(same)[order]


def _per_row(reads: Tensor, values: Tensor) -> Tensor:
    table = torch.zeros(reads.shape, device=reads.device).masked_scatter(reads, values)
    return (table.sum(dim=1) / reads.sum(dim=1)).cpu()


def specificity(bench: Bench, original: Mapping[str, Answers], changed: View) -> Finding:
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
    finding = Finding()
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
