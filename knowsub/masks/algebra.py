"""Combining and comparing masks of one model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from knowsub.masks.mask import Mask


def union(*masks: Mask) -> Mask:
    """Return the weights that belong to any of the masks (errors: `combine`)."""
    return combine("union", masks, lambda votes, _: votes >= 1)


def intersection(*masks: Mask) -> Mask:
    """Return the weights that belong to all of the masks (errors: `combine`)."""
    return combine("intersection", masks, lambda votes, total: votes == total)


def floral(*masks: Mask) -> Mask:
    """Return the weights that belong to at least two of the masks (errors: `combine`)."""
    return combine("floral", masks, lambda votes, _: votes >= 2)


def difference(first: Mask, *others: Mask) -> Mask:
    """Return the weights of the first mask that belong to none of the others."""
    return intersection(first, complement(union(*others))) if others else first


def complement(mask: Mask) -> Mask:
    """Return the maskable weights outside the mask."""
    return Mask({name: ~bits for name, bits in mask.bits.items()}, mask.model, dict(mask.meta))


def combine(name: str, masks: Sequence[Mask], rule: Callable[[Tensor, int], Tensor]) -> Mask:
    """Return the weights whose number of votes among the masks fulfils a rule.

    Args:
        name: What the combination is called in the result's `meta`.
        masks: At least one mask; all of one model and over the same sites.
        rule: Votes per weight and number of masks -> bits.

    Returns:
        The combined mask.

    Raises:
        ValueError: If there is no mask, or the masks differ in model or sites.
    """
    if not masks:
        raise ValueError(f"{name} of no masks")
    _require_alike(masks)
    first = masks[0]
    votes = {
        site: torch.stack([mask.bits[site] for mask in masks]).sum(dim=0, dtype=torch.int32)
        for site in first.bits
    }
    bits = {site: rule(count, len(masks)) for site, count in votes.items()}
    return Mask(bits, first.model, {"method": name, "masks": str(len(masks))})


def jaccard(first: Mask, second: Mask) -> float:
    """Return |intersection| / |union| of two masks; 1 if both are empty (errors: `combine`)."""
    both = intersection(first, second).size
    either = first.size + second.size - both
    return both / either if either else 1.0


def grow(mask: Mask, share: float, generator: torch.Generator) -> Mask:
    """Return the mask with random outside weights added to each site.

    Args:
        mask: The mask.
        share: Number of weights to add, as a share of the site's members [fraction].
        generator: Source of randomness.

    Returns:
        A mask that contains the given one; a site cannot grow beyond its size.
    """
    return _flip(mask, share, generator, member=False)


def shrink(mask: Mask, share: float, generator: torch.Generator) -> Mask:
    """Return the mask with random members of each site taken away.

    Args:
        mask: The mask.
        share: Number of weights to take, as a share of the site's members [fraction].
        generator: Source of randomness.

    Returns:
        A mask that lies within the given one.
    """
    return _flip(mask, share, generator, member=True)


def _flip(mask: Mask, share: float, generator: torch.Generator, *, member: bool) -> Mask:
    flipped: dict[str, Tensor] = {}
    for site, bits in mask.bits.items():
        candidates = (bits == member).flatten().nonzero()[:, 0]
        wanted = min(round(share * int(bits.sum())), len(candidates))
        chosen = candidates[torch.randperm(len(candidates), generator=generator)[:wanted]]
        flat = bits.flatten().clone()
        flat[chosen] = not member
        flipped[site] = flat.view(bits.shape)
    return Mask(flipped, mask.model, dict(mask.meta))


def _require_alike(masks: Sequence[Mask]) -> None:
    first = masks[0]
    for other in masks[1:]:
        if other.model != first.model:
            raise ValueError(f"masks of two models: {first.model[:12]} and {other.model[:12]}")
        if other.bits.keys() != first.bits.keys():
            differing = sorted(other.bits.keys() ^ first.bits.keys())
            raise ValueError(f"masks over different sites: {', '.join(differing[:5])}")
