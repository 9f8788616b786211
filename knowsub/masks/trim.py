"""The largest positive logits, found without a second vector of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int32
from torch import Tensor

from knowsub.masks.mask import PackedBits, pack_bits


def pack_largest(logits: Float[Tensor, " gate"], limit: int, parts: Sequence[slice]) -> PackedBits:
    """Return which logits are positive, at most `limit` of them, the largest; of ties the first.

    Args:
        logits: The logits.
        limit: How many may be chosen.
        parts: The slices that are worked on one after the other; each but the last begins and ends
            at a multiple of 8.

    Returns:
        A bit per logit.
    """
    cut, n_ties = _cut(logits, limit, parts) if limit else (torch.iinfo(torch.int32).max, 0)
    packed = []
    for part in parts:
        keys = _keys(logits[part])
        chosen = keys > cut
        tied = (keys == cut).nonzero()[:n_ties, 0]
        chosen[tied] = True
        n_ties -= len(tied)
        packed.append(pack_bits(chosen))
    return PackedBits(torch.cat(packed), len(logits), logits.device)


def _keys(logits: Float[Tensor, " gate"]) -> Int32[Tensor, " gate"]:
    """Return integers in the order of the positive logits, which are ordered as their bits are."""
    return logits.clamp(min=0.0).view(torch.int32)


def _cut(logits: Float[Tensor, " gate"], limit: int, parts: Sequence[slice]) -> tuple[int, int]:
    """Return a key such that the larger ones are chosen, and how many that are equal to it.

    The key is found by counting its upper sixteen bits, then its lower ones.
    """
    positive = (keys[keys > 0] for keys in (_keys(logits[part]) for part in parts))
    upper, left = _bucket((keys >> 16 for keys in positive), limit)
    if upper < 0:
        return 0, 0
    within = (keys[keys >> 16 == upper] for keys in (_keys(logits[part]) for part in parts))
    lower, left = _bucket((keys & 0xFFFF for keys in within), left)
    return (upper << 16) + lower, left


def _bucket(values: Iterable[Int32[Tensor, " value"]], limit: int) -> tuple[int, int]:
    """Return the largest value with `limit` values or more from it up; `limit` less those above.

    The value is -1 if there are no more values than `limit`.
    """
    counts = sum(torch.bincount(each, minlength=1 << 16).cpu() for each in values)
    assert isinstance(counts, Tensor), "there is at least one part"
    if int(counts.sum()) <= limit:
        return -1, 0
    from_top = counts.flip(0).cumsum(0)
    place = int((from_top >= limit).nonzero()[0, 0])
    above = int(from_top[place] - counts.flip(0)[place])
    return len(counts) - 1 - place, limit - above
