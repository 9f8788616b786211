"""The objective of one step: each term by its name, through the LM head without holding logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from knowsub.discovery import losses
from knowsub.discovery.ignorance import Ignorance
from knowsub.discovery.options import Suppression
from knowsub.discovery.through_head import through_head
from knowsub.lm.encode import Batch
from knowsub.lm.packed import last_packed
from knowsub.lm.placing import beside
from knowsub.lm.reading import only_read
from knowsub.lm.trunk import last_hidden


def read_states(
    model: PreTrainedModel, *groups: Mapping[str, Batch]
) -> dict[str, Float[Tensor, "read hidden"]]:
    """Return the final states at the read positions of several batches, in one forward pass.

    Positions beyond the last one read are left out.

    Args:
        model: The upper blocks; from `packable` if there are several groups.
        *groups: Batches by name, their positions on the CPU, their sequences with trunk states.
            Shorter ones are padded on the right to the width of their group. A batch may be empty,
            a group may not.

    Returns:
        One tensor of states per batch, by name.

    Raises:
        ValueError: If a batch has no trunk states.
    """
    batches = [batch for group in groups for batch in group.values()]
    if any(batch.hidden is None for batch in batches):
        raise ValueError("a training batch needs its trunk states; push it first")
    rows = [_joined(list(group.values()), next(model.parameters())) for group in groups]
    with only_read(model, torch.cat([row.reads.flatten() for row in rows])) as read:
        states = last_hidden(model, rows[0]) if len(rows) == 1 else last_packed(model, rows)
    told = states.flatten(0, 1).index_select(0, read)
    names = [name for group in groups for name in group]
    counts = [int(batch.reads.sum()) for batch in batches]
    return dict(zip(names, told.split(counts), strict=True))


def _joined(batches: Sequence[Batch], place: Tensor) -> Batch:
    """Return batches as one, of one width, its states beside a tensor."""
    width = max(int(batch.lengths.max()) for batch in batches if len(batch)) - 1
    parts = [batch.of_width(width) for batch in batches]
    return Batch(
        torch.cat([part.tokens for part in parts]),
        torch.cat([part.reads for part in parts]),
        torch.cat([beside(part.hidden, place) for part in parts if part.hidden is not None]),
    )


def suppression(
    head: nn.Module,
    states: Float[Tensor, "read hidden"],
    labels: Int[Tensor, " read"],
    kind: Suppression,
    ignorance: Ignorance,
    standings: Float[Tensor, "statement target"],
) -> Float[Tensor, ""]:
    """Return the summed suppression at target tail positions.

    Args:
        head: The LM head.
        states: Final states of the remaining model.
        labels: Tokens of the tails.
        kind: What the tails are pushed to.
        ignorance: What not knowing looks like.
        standings: Those of these statements; `level` and `profile` alone read them, one position
            each.

    Returns:
        The sum [nats].
    """

    def term(logits: Tensor, chunk: slice) -> Tensor:
        own, tails, targets = labels[chunk], ignorance.tails, ignorance.targets
        match kind:
            case Suppression.UNIFORM:
                return losses.kl_from_uniform(logits)
            case Suppression.PRIOR:
                return losses.kl_divergence(ignorance.prior.expand_as(logits), logits)
            case Suppression.UNLIKELIHOOD:
                return losses.bounded_unlikelihood(logits, own, ignorance.prior[own])
            case Suppression.LEVEL:
                column = torch.searchsorted(targets, own)[:, None]
                return losses.level(logits, own, tails, standings[chunk].gather(1, column)[:, 0])
            case Suppression.PROFILE:
                return losses.profile(logits, own, tails, targets, standings[chunk])

    return through_head(states, head, term)


def trace(
    head: nn.Module,
    states: Float[Tensor, "read hidden"],
    labels: Int[Tensor, " read"],
    targets: Int[Tensor, " target"],
) -> Float[Tensor, ""]:
    """Return what the logits still tell from head to head, summed over positions.

    Args:
        head: The LM head.
        states: Final states of the remaining model.
        labels: Tokens of the tails.
        targets: Tokens of the target's tails.

    Returns:
        `losses.correlation` of all positions together, times their number.
    """
    weight = head.weight[targets]  # type: ignore[index]
    bias = getattr(head, "bias", None)
    logits = nn.functional.linear(states, weight, None if bias is None else bias[targets])
    return losses.correlation(logits.float(), labels, targets).sum()


def expression(
    head: nn.Module, states: Float[Tensor, "read hidden"], labels: Int[Tensor, " read"]
) -> Float[Tensor, ""]:
    """Return the summed NLL of the target's tails under the subnetwork alone.

    Args:
        head: The LM head.
        states: Final states of the subnetwork alone.
        labels: Tokens of the tails.

    Returns:
        The sum [nats].
    """

    def term(logits: Tensor, chunk: slice) -> Tensor:
        return losses.negative_log_likelihood(logits, labels[chunk])

    return through_head(states, head, term)
