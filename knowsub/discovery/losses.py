"""The terms of the objective: pure functions of logits, one value per target position, in nats.

`q` is the model under the mask, `p` the original model, `U` the uniform distribution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from knowsub.discovery.ignorance import Ignorance
from knowsub.discovery.kernels import last_hidden_varlen, last_mlp_at_targets
from knowsub.discovery.options import Suppression
from knowsub.lm.batch import Batch, to_device_of
from knowsub.lm.blocks import last_hidden
from knowsub.lm.head_loss import chunked_head_loss

Logits = Float[Tensor, "read vocab"]
Losses = Float[Tensor, " read"]


def kl_from_uniform(logits: Logits) -> Losses:
    """Return KL(U || q) = -log V - mean over v of log q(v); 0 if and only if q is uniform.

    Args:
        logits: Logits of q.

    Returns:
        Divergence per position [nats].

    Source:
        Bayazit et al. 2024, equation 3 (suppression).
    """
    return logits.logsumexp(dim=-1) - logits.mean(dim=-1) - math.log(logits.shape[-1])


def kl_divergence(reference: Logits, logits: Logits) -> Losses:
    """Return KL(p || q) = sum over v of p(v) (log p(v) - log q(v)).

    Args:
        reference: Logits of p, constant.
        logits: Logits of q.

    Returns:
        Divergence per position [nats].

    Source:
        Bayazit et al. 2024, equations 4 and 5 (maintenance).
    """
    log_p = reference.log_softmax(dim=-1)
    log_q = logits.log_softmax(dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def negative_log_likelihood(logits: Logits, labels: Int[Tensor, " read"]) -> Losses:
    """Return -log q(label), the expression term under the subnetwork alone.

    Args:
        logits: Logits of q.
        labels: Tokens predicted.

    Returns:
        NLL per position [nats].

    Source:
        Bayazit et al. 2024, appendix (expression), as subnetwork probing of Cao et al. 2021.
    """
    return functional.cross_entropy(logits, labels, reduction="none")


def bounded_unlikelihood(logits: Logits, labels: Int[Tensor, " read"], floor: Losses) -> Losses:
    """Return how far log q(label) lies above a floor; 0 once it is at or below.

    Args:
        logits: Logits of q.
        labels: Tokens to be forgotten.
        floor: Log-probability that ignorance would give each label [nats].

    Returns:
        max(0, log q(label) - floor) per position [nats].

    Source:
        Unlikelihood of Welleck et al. 2020, stopped at the prior.
    """
    return (-negative_log_likelihood(logits, labels) - floor).clamp_min(0.0)


def zscore_label(
    logits: Logits, labels: Int[Tensor, " read"], tails: Int[Tensor, " tail"], standing: Losses
) -> Losses:
    """Return how far the label's logit is from where ignorance would have it among the tails.

    Nothing but its standing is asked for, from both sides: an answer that is avoided is a trace
    too. It is measured in standard deviations, because a removal flattens all tails together.

    Args:
        logits: Logits of q.
        labels: Tokens to be forgotten.
        tails: First tokens of the relation's tails, two at least.
        standing: Standard deviations by which ignorance would have each label above the mean tail.

    Returns:
        |logit - (mean + standing x deviation)| per position, quadratic within 1 nat (Huber)
        [nats].
    """
    return _zscore_huber(logits, labels[:, None], tails, standing[:, None])[:, 0]


def zscore_all(
    logits: Logits,
    labels: Int[Tensor, " read"],
    tails: Int[Tensor, " tail"],
    targets: Int[Tensor, " target"],
    standings: Float[Tensor, "read target"],
) -> Losses:
    """Return how far the target's tails are from where another head would have all of them.

    `level` looks at the true tail alone. Where the target's other tails lie at the same head still
    tells which of them is the true one, if they lie lower there than at other heads.

    Args:
        logits: Logits of q.
        labels: Tokens to be forgotten, all among `targets`.
        tails: First tokens of the relation's tails, two at least.
        targets: Tokens of the target's tails.
        standings: Standard deviations by which the other head has each of them above the mean tail.

    Returns:
        `level` of the label, and the mean of `level` over the other tails [nats].
    """
    astray = _zscore_huber(logits, targets.expand(len(logits), -1), tails, standings)
    own = targets == labels[:, None]
    others = astray.masked_fill(own, 0.0).sum(dim=-1) / max(1, len(targets) - 1)
    return astray.masked_fill(~own, 0.0).sum(dim=-1) + others


def _zscore_huber(
    logits: Logits,
    asked: Int[Tensor, "read asked"],
    tails: Int[Tensor, " tail"],
    standing: Float[Tensor, "read asked"],
) -> Float[Tensor, "read asked"]:
    told = logits[:, tails]
    wanted = torch.addcmul(
        told.mean(dim=-1, keepdim=True), standing, told.std(dim=-1, keepdim=True).detach()
    )
    return functional.huber_loss(logits.gather(1, asked), wanted, reduction="none")


def correlation(
    logits: Float[Tensor, "read target"],
    labels: Int[Tensor, " read"],
    targets: Int[Tensor, " target"],
) -> Losses:
    """Return how well the logits still tell, from head to head, which tail is whose.

    For each tail, the squared correlation over positions between its logit and whether it is the
    position's label; 0 means that nothing linear is left to recognise the head by. It does not
    depend on the scale of the logits, so that faint traces count like loud ones.

    Args:
        logits: Logits of the target's tails under q, at positions of several tails.
        labels: Tokens to be forgotten.
        targets: Tokens of the target's tails; those of no position, or of all, count as 0.

    Returns:
        The mean over tails, the same at every position, 0 to 1.
    """
    own = (labels[:, None] == targets).to(logits.dtype)
    own = own - own.mean(dim=0)
    told = logits - logits.mean(dim=0)
    scale = told.square().sum(dim=0) * own.square().sum(dim=0)
    squared = (told * own).sum(dim=0).square() / scale.clamp_min(1e-12)
    return squared.mean().expand(len(logits))


def target_states(
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
    if any(batch.lower_states is None for batch in batches):
        raise ValueError("a training batch needs its trunk states; push it first")
    rows = [_joined(list(group.values()), next(model.parameters())) for group in groups]
    with last_mlp_at_targets(model, torch.cat([row.target_mask.flatten() for row in rows])) as read:
        states = last_hidden(model, rows[0]) if len(rows) == 1 else last_hidden_varlen(model, rows)
    told = states.flatten(0, 1).index_select(0, read)
    names = [name for group in groups for name in group]
    counts = [int(batch.target_mask.sum()) for batch in batches]
    return dict(zip(names, told.split(counts), strict=True))


def _joined(batches: Sequence[Batch], place: Tensor) -> Batch:
    """Return batches as one, of one width, its states beside a tensor."""
    width = max(int(batch.lengths.max()) for batch in batches if len(batch)) - 1
    parts = [batch.pad_to(width) for batch in batches]
    return Batch(
        torch.cat([part.tokens for part in parts]),
        torch.cat([part.target_mask for part in parts]),
        torch.cat(
            [
                to_device_of(part.lower_states, place)
                for part in parts
                if part.lower_states is not None
            ]
        ),
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
        own, tails, targets = labels[chunk], ignorance.objects, ignorance.targets
        match kind:
            case Suppression.UNIFORM:
                return kl_from_uniform(logits)
            case Suppression.PRIOR:
                return kl_divergence(ignorance.prior.expand_as(logits), logits)
            case Suppression.UNLIKELIHOOD:
                return bounded_unlikelihood(logits, own, ignorance.prior[own])
            case Suppression.ZSCORE_LABEL:
                column = torch.searchsorted(targets, own)[:, None]
                return zscore_label(logits, own, tails, standings[chunk].gather(1, column)[:, 0])
            case Suppression.ZSCORE_ALL:
                return zscore_all(logits, own, tails, targets, standings[chunk])

    return chunked_head_loss(states, head, term)


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
    return correlation(logits.float(), labels, targets).sum()


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
        return negative_log_likelihood(logits, labels[chunk])

    return chunked_head_loss(states, head, term)
