"""The largest positive logits, found without a second vector of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int32
from torch import Tensor

from knowsub.masks.mask import PackedBits, pack_bits
from knowsub.masks.shards import Shards


def pack_largest(
    logits: Float[Tensor, " gate"], limit: int, parts: Sequence[slice], shards: Shards | None = None
) -> PackedBits:
    """Return which logits are positive, at most `limit` of them, the largest; of ties the first.

    Args:
        logits: The logits.
        limit: How many may be chosen, in all processes.
        parts: The slices that are worked on one after the other; each but the last begins and ends
            at a multiple of 8.
        shards: Of the processes that share the logits, one after another; None if there is one.

    Returns:
        A bit per logit of this process.
    """
    shards = shards or Shards()
    cut, n_ties = torch.iinfo(torch.int32).max, 0
    if limit:
        cut, n_ties = _cut(logits, limit, parts, shards)
    if n_ties and shards.processes > 1:  # those of the processes before come first
        tied = sum(int((_keys(logits[part]) == cut).count_nonzero()) for part in parts)
        before = int(shards.gather(torch.tensor(tied))[: shards.rank].sum())
        n_ties = max(0, n_ties - before)
    packed = []
    for part in parts:
        keys = _keys(logits[part])
        chosen = keys > cut
        first = (keys == cut).nonzero()[:n_ties, 0]
        chosen[first] = True
        n_ties -= len(first)
        packed.append(pack_bits(chosen))
    return PackedBits(torch.cat(packed), len(logits), logits.device)


def _keys(logits: Float[Tensor, " gate"]) -> Int32[Tensor, " gate"]:
    """Return integers in the order of the positive logits, which are ordered as their bits are."""
    return logits.clamp(min=0.0).view(torch.int32)


def _cut(
    logits: Float[Tensor, " gate"], limit: int, parts: Sequence[slice], shards: Shards
) -> tuple[int, int]:
    """Return a key such that the larger ones are chosen, and how many that are equal to it.

    The key is found by counting its upper sixteen bits, then its lower ones.
    """
    positive = (keys[keys > 0] for keys in (_keys(logits[part]) for part in parts))
    upper, left = _bucket((keys >> 16 for keys in positive), limit, shards)
    if upper < 0:
        return 0, 0
    within = (keys[keys >> 16 == upper] for keys in (_keys(logits[part]) for part in parts))
    lower, left = _bucket((keys & 0xFFFF for keys in within), left, shards)
    return (upper << 16) + lower, left


def _bucket(
    values: Iterable[Int32[Tensor, " value"]], limit: int, shards: Shards
) -> tuple[int, int]:
    """Return the largest value with `limit` values or more from it up; `limit` less those above.

    The value is -1 if there are no more values than `limit`.
    """
    counts = sum(torch.bincount(each, minlength=1 << 16).cpu() for each in values)
    assert isinstance(counts, Tensor), "there is at least one part"
    counts = shards.total(counts)
    if int(counts.sum()) <= limit:
        return -1, 0
    from_top = counts.flip(0).cumsum(0)
    place = int((from_top >= limit).nonzero()[0, 0])
    above = int(from_top[place] - counts.flip(0)[place])
    return len(counts) - 1 - place, limit - above
