"""SNIP: weights whose removal should change the loss most, by the gradient; set difference."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from transformers import PreTrainedModel

from knowsub.anatomy import Site
from knowsub.baselines.gradient import weight_gradients
from knowsub.lm.encode import Batch


def snip_scores(
    model: PreTrainedModel, upper: PreTrainedModel, sites: Sequence[Site], batch: Batch, rows: int
) -> dict[str, Tensor]:
    """Return the mean over gradients of |g w|.

    Args:
        model: The original model.
        upper: Its upper blocks.
        sites: The maskable matrices.
        batch: The statements, with trunk states.
        rows: Statements per gradient.

    Returns:
        Site name -> importance [nats].

    Source:
        Lee et al. 2019 (SNIP); as a score on language data, Wei et al. 2024 (arXiv 2402.05162).
    """
    return _mean(model, upper, sites, batch, rows, lambda weight, grad: (weight * grad).abs())


def signed_scores(
    model: PreTrainedModel, upper: PreTrainedModel, sites: Sequence[Site], batch: Batch, rows: int
) -> dict[str, Tensor]:
    """Return -g w: how much the NLL rises, to first order, when the weight is removed.

    Args:
        model: The original model.
        upper: Its upper blocks.
        sites: The maskable matrices.
        batch: The statements, with trunk states.
        rows: Statements per gradient.

    Returns:
        Site name -> predicted rise [nats].
    """
    return _mean(model, upper, sites, batch, rows, lambda weight, grad: -weight * grad)


def _mean(
    model: PreTrainedModel,
    upper: PreTrainedModel,
    sites: Sequence[Site],
    batch: Batch,
    rows: int,
    score: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    count = 0
    for gradients in weight_gradients(model, upper, sites, batch, rows):
        count += 1
        for name, (weight, gradient) in gradients.items():
            value = score(weight, gradient)
            total[name] = total[name].add_(value) if name in total else value
    return {name: (value / count).cpu() for name, value in total.items()}
