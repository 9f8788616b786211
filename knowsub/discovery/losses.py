"""Loss terms: pure functions of logits that return one value per target position [nats].

`q` is the distribution under the mask, `p` the original model's, `U` the uniform one. A term knows
no coefficient and no schedule: `StepGradient` in `step` holds the coefficients, `trainer` the
schedules.

To add a suppression term: write a function here with the signature `SuppressionLoss`, give
`options.Suppression` a member, enter both in the table `SUPPRESSION` below, name the value beside
`train.suppression` in `params.yaml`, and test the function by hand in `test_losses`. Nothing else
changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from knowsub.discovery.ignorance import Ignorance
from knowsub.discovery.options import Suppression
from knowsub.lm.batch import to_device_of

Logits = Float[Tensor, "target vocab"]
Labels = Int[Tensor, " target"]
Losses = Float[Tensor, " target"]
ZScores = Float[Tensor, "target object"]
SuppressionLoss = Callable[[Logits, Labels, Ignorance, ZScores], Losses]
"""Logits of q, tokens to be forgotten, what the original model answers for unrelated subjects, and
that answer for these target positions (rows of `Ignorance.object_zscores`) -> losses [nats]."""


def kl_divergence(reference: Logits, logits: Logits) -> Losses:
    """Return KL(p || q) = sum over v of p(v) (log p(v) - log q(v)).

    Source: Bayazit et al. 2024, equations 4 and 5 (maintenance).
    """
    log_p, log_q = reference.log_softmax(dim=-1), logits.log_softmax(dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def negative_log_likelihood(logits: Logits, labels: Labels) -> Losses:
    """Return -log q(label): the expression term, with q the subnetwork alone.

    Source: Bayazit et al. 2024, appendix (expression); subnetwork probing of Cao et al. 2021.
    """
    return functional.cross_entropy(logits, labels, reduction="none")


def kl_from_uniform(logits: Logits, *_: object) -> Losses:
    """Return KL(U || q) = -log V - mean over v of log q(v); 0 if and only if q is uniform.

    Source: Bayazit et al. 2024, equation 3 (suppression).
    """
    return logits.logsumexp(dim=-1) - logits.mean(dim=-1) - math.log(logits.shape[-1])


def kl_from_prior(logits: Logits, _: Labels, ignorance: Ignorance, *__: object) -> Losses:
    """Return KL(prior || q), where the prior is the mean answer for unrelated subjects."""
    return kl_divergence(ignorance.prior.expand_as(logits), logits)


def bounded_unlikelihood(
    logits: Logits, labels: Labels, ignorance: Ignorance, *_: object
) -> Losses:
    """Return max(0, log q(label) - log prior(label)).

    Source: unlikelihood of Welleck et al. 2020, stopped at the prior.
    """
    log_q = -negative_log_likelihood(logits, labels)
    return (log_q - ignorance.prior[labels]).clamp_min(0.0)


def zscore_label(logits: Logits, labels: Labels, ignorance: Ignorance, zscores: ZScores) -> Losses:
    """Return Huber(z(label) - (mean + zscore(label) x std)), over the logits z of all objects.

    The label gets the z-score among the objects that it has for an unrelated subject, from both
    sides: an answer that is avoided gives the fact away too. Z-scores do not depend on the scale
    of the logits, which a removal flattens.
    """
    column = torch.searchsorted(ignorance.targets, labels)[:, None]
    return _zscore_huber(logits, labels[:, None], ignorance.objects, zscores.gather(1, column))[
        :, 0
    ]


def zscore_all(logits: Logits, labels: Labels, ignorance: Ignorance, zscores: ZScores) -> Losses:
    """Return `zscore_label` of the label, plus its mean over the target's other objects.

    Without the others, objects that rank lower for their own subject than for unrelated ones still
    tell which of them is the true one.
    """
    targets = ignorance.targets
    errors = _zscore_huber(
        logits, targets.expand(len(logits), -1), ignorance.objects, zscores
    )  # (target, object)
    is_label = targets == labels[:, None]
    others = errors.masked_fill(is_label, 0.0).sum(dim=-1) / max(1, len(targets) - 1)
    return errors.masked_fill(~is_label, 0.0).sum(dim=-1) + others


def _zscore_huber(
    logits: Logits, tokens: Int[Tensor, "target object"], objects: Tensor, zscores: ZScores
) -> Float[Tensor, "target object"]:
    """Return the Huber loss (quadratic within 1 nat) of tokens' logits around their z-scores."""
    among = logits[:, objects]
    mean, std = among.mean(dim=-1, keepdim=True), among.std(dim=-1, keepdim=True)
    # No gradient through std: spreading the other objects would lower the loss too.
    expected = torch.addcmul(mean, zscores, std.detach())
    return functional.huber_loss(logits.gather(1, tokens), expected, reduction="none")


SUPPRESSION: dict[Suppression, SuppressionLoss] = {
    Suppression.UNIFORM: kl_from_uniform,
    Suppression.PRIOR: kl_from_prior,
    Suppression.UNLIKELIHOOD: bounded_unlikelihood,
    Suppression.ZSCORE_LABEL: zscore_label,
    Suppression.ZSCORE_ALL: zscore_all,
}


def means(sums: Float[Tensor, " term"], counts: dict[str, int]) -> dict[str, Float[Tensor, ""]]:
    """Return each term's sum over the number of its positions, by name."""
    divided = sums / to_device_of(torch.tensor(list(counts.values())), sums)
    return dict(zip(counts, divided.unbind(), strict=True))
