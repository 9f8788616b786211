"""The mask as an artefact: its value, its file, and the algebra of masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from numpy.typing import NDArray
from torch import Tensor

from knowsub.artifacts import read_checksummed, write_checksummed


@dataclass(frozen=True)
class Mask:
    """The bits of a critical subnetwork, one boolean tensor per site; True = belongs to it.

    A mask speaks of weights whatever unit it was found with: a head that was chosen is stored as
    the weights of that head, so that every mask can be compared with, combined with and removed
    like every other.
    """

    bits: Mapping[str, Tensor]
    """Site name -> boolean tensor of `Site.shape` (storage order of that site)."""
    model: str
    """Fingerprint of the model that the mask belongs to."""
    meta: Mapping[str, str] = field(default_factory=dict)
    """How it was made: target, seed, method, unit, parameters; written into the file's header."""

    @property
    def size(self) -> int:
        """Number of weights in the critical subnetwork."""
        return int(sum(int(bits.sum()) for bits in self.bits.values()))

    @property
    def maskable(self) -> int:
        """Number of maskable weights."""
        return sum(bits.numel() for bits in self.bits.values())

    @property
    def sparsity(self) -> float:
        """Share of maskable weights outside the critical subnetwork [fraction]."""
        return 1.0 - self.size / self.maskable

    def counts(self) -> dict[str, int]:
        """Return the number of weights of the subnetwork in each site."""
        return {name: int(bits.sum()) for name, bits in self.bits.items()}


def pack_bits(bits: Bool[Tensor, " bit"]) -> UInt8[Tensor, " byte"]:
    """Return bits as bytes on the CPU, the first bit highest, the last byte filled with zeros."""
    return torch.from_numpy(np.packbits(bits.cpu().numpy()))


def unpack_bits(packed: UInt8[Tensor, " byte"], count: int) -> Bool[Tensor, " bit"]:
    """Return the first bits of what `pack` returned.

    Args:
        packed: The bytes, on the CPU.
        count: How many bits; bits beyond the last byte are zeros.

    Returns:
        The bits, on the CPU.
    """
    return torch.from_numpy(np.unpackbits(packed.numpy(), count=count).astype(bool))


FORMAT = "knowsub-mask-1"


def save_mask(mask: Mask, path: Path) -> None:
    """Write a mask, eight weights to the byte, atomically; the same mask gives the same bytes.

    Args:
        mask: The mask.
        path: File to write; its folder must exist.

    Raises:
        OSError: If the file cannot be written; an older file is left as it was.
    """
    packed = {name: pack_bits(bits.flatten()).numpy() for name, bits in mask.bits.items()}
    shapes = {name: list(bits.shape) for name, bits in mask.bits.items()}
    described = {"format": FORMAT, "model": mask.model, "shapes": shapes, "meta": dict(mask.meta)}
    write_checksummed(path, packed, described)


def load_mask(path: Path) -> Mask:
    """Read a mask, or refuse it.

    Args:
        path: A file written by `save_mask`.

    Returns:
        The mask, equal to the one written.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no mask file, is truncated, or does not match its checksum.
    """
    packed, described = read_checksummed(path)
    found = described.get("format") if isinstance(described, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path}: format {found!r}; this version reads {FORMAT!r}")
    try:
        shapes = described["shapes"].items()
        bits = {name: _unpack(packed[name], shape) for name, shape in shapes}
        return Mask(bits, str(described["model"]), dict(described["meta"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: no mask, though its seal holds ({error})") from None


def check_model(mask: Mask, fingerprint: str) -> None:
    """Refuse a mask that belongs to another model.

    Args:
        mask: The mask.
        fingerprint: Fingerprint of the model at hand.

    Raises:
        ValueError: If the mask was made for another model.
    """
    if mask.model != fingerprint:
        raise ValueError(
            f"the mask belongs to model {mask.model[:12]}, this is model {fingerprint[:12]}"
        )


def _unpack(packed: NDArray[np.uint8], shape: list[int]) -> Tensor:
    size = math.prod(shape)
    if min(shape, default=0) < 0 or packed.shape != (-(-size // 8),):
        raise ValueError(f"{packed.size} bytes for a matrix of shape {shape}")
    return unpack_bits(torch.from_numpy(packed), size).view(shape)


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


def random_masks(mask: Mask, number: int, generator: torch.Generator) -> Iterator[Mask]:
    """Yield masks of exactly as many weights in each site, each set of weights as likely.

    Args:
        mask: The mask whose counts are matched.
        number: Masks wanted.
        generator: Source of randomness.

    Yields:
        The masks, one at a time: a large model's do not fit into memory together.
    """
    for _ in range(number):
        bits = {}
        for name, own in mask.bits.items():
            chosen = torch.randperm(own.numel(), generator=generator)[: int(own.sum())]
            flat = torch.zeros(own.numel(), dtype=torch.bool)
            flat[chosen] = True
            bits[name] = flat.view(own.shape)
        yield Mask(bits, mask.model, {"method": "random"})


def random_scores(mask: Mask, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Return a random score for each weight, so that masks of several sizes lie in one another.

    Args:
        mask: A mask over the sites.
        generator: Source of randomness.

    Returns:
        Site name -> scores.
    """
    return {
        name: torch.randperm(own.numel(), generator=generator).double().view(own.shape)
        for name, own in mask.bits.items()
    }
