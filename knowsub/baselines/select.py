"""The one way from scores to a mask: so many of the highest per site."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from knowsub.masks.mask import Mask

Scores = Mapping[str, Tensor]
"""Site name -> score of each weight, of the site's shape; higher = chosen earlier."""


def select(scores: Scores, counts: Mapping[str, int], model: str, meta: Mapping[str, str]) -> Mask:
    """Return the mask of the highest scores, exactly so many in each site.

    Args:
        scores: Score of each weight.
        counts: Site name -> number of weights; a site left out gets none.
        model: Fingerprint of the model.
        meta: How the scores were made.

    Returns:
        The mask. Equal scores are taken in storage order, so that equal inputs give equal masks.

    Raises:
        ValueError: If a score is not a number, a site has no scores, or fewer weights than wanted.
    """
    if missing := sorted(counts.keys() - scores.keys()):
        raise ValueError(f"site {missing[0]} has no scores")
    bits = {name: _highest(name, own, counts.get(name, 0)) for name, own in scores.items()}
    return Mask(bits, model, dict(meta))


def _highest(name: str, scores: Float[Tensor, ...], count: int) -> Tensor:
    if bool(scores.isnan().any()):
        raise ValueError(f"site {name} has a score that is not a number")
    if not 0 <= count <= scores.numel():
        raise ValueError(f"site {name} has {scores.numel()} weights, not {count}")
    order = torch.sort(scores.flatten(), descending=True, stable=True).indices
    bits = torch.zeros(scores.numel(), dtype=torch.bool)
    bits[order[:count].cpu()] = True
    return bits.view(scores.shape)


def apart(target: Scores, control: Scores, protected: float) -> dict[str, Tensor]:
    """Return the set difference as scores: target importance, what the controls need put last.

    In each site the given share of weights that are most important to the controls, as far as their
    importance is above 0, comes after all others; within both groups the order is that of
    importance to the target.

    Args:
        target: Importance to the target, any finite unit.
        control: Importance to the controls, any unit.
        protected: Share of each site that is protected [fraction].

    Returns:
        Score of each weight: its rank by target importance, lowered for protected ones.

    Source:
        Wei et al. 2024 (arXiv 2402.05162), set difference of SNIP and Wanda scores; they stop where
        the unprotected run out, here the protected then follow, so that the size is always met.
    """
    scores = {}
    for name, own in target.items():
        order = torch.sort(own.flatten(), stable=True).indices
        ranks = torch.empty(own.numel(), dtype=torch.float64)
        ranks[order.cpu()] = torch.arange(own.numel(), dtype=torch.float64)
        kept = (
            _highest(name, control[name], int(protected * own.numel())) & (control[name] > 0).cpu()
        )
        scores[name] = (ranks - kept.flatten() * float(own.numel())).view(own.shape)
    return scores


def scaled(counts: Mapping[str, int], factor: float, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return so many times the counts, rounded, no site beyond its size.

    Args:
        counts: Site name -> number of weights.
        factor: Multiple.
        sizes: Site name -> number of weights that there are.

    Returns:
        Site name -> number of weights.
    """
    return {name: min(round(count * factor), sizes[name]) for name, count in counts.items()}
