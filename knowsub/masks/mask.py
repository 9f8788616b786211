"""The mask as an artefact: its value, its file, the algebra of masks, and random masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from knowsub.artifacts import other_model_error, read_checksummed, write_checksummed


@dataclass(frozen=True)
class Mask:
    """The bits of a critical subnetwork, one boolean tensor per matrix; True = belongs to it.

    A mask is over weights whatever the granularity of its gates: an attention head that was chosen
    is stored as the weights of that head, so that all masks can be compared, combined and removed.
    """

    bits: Mapping[str, Tensor]
    """Name of the matrix -> boolean tensor of `MaskableMatrix.shape`."""
    model: str
    """Fingerprint of the model that the mask belongs to."""
    meta: Mapping[str, str] = field(default_factory=dict)
    """How it was made: target, seed, method, granularity; written into the file's header."""

    @property
    def size(self) -> int:
        """Number of weights in the critical subnetwork."""
        return sum(self.counts().values())

    @property
    def maskable(self) -> int:
        """Number of maskable weights."""
        return sum(bits.numel() for bits in self.bits.values())

    @property
    def sparsity(self) -> float:
        """Share of maskable weights outside the critical subnetwork [fraction]."""
        return 1.0 - self.size / self.maskable

    def counts(self) -> dict[str, int]:
        """Return the number of weights of the subnetwork in each matrix."""
        return {name: int(bits.sum()) for name, bits in self.bits.items()}

    @classmethod
    def load(cls, path: str | Path) -> Mask:
        """Return the mask of a file (errors: `load_mask`)."""
        return load_mask(Path(path))

    def save(self, path: str | Path) -> None:
        """Write the mask to a file; see `save_mask`."""
        save_mask(self, Path(path))

    def __repr__(self) -> str:
        made = ", ".join(f"{name} {self.meta[name]}" for name in sorted(self.meta))
        size = f"{self.size:,} of {self.maskable:,} weights, sparsity {self.sparsity:.2%}"
        return f"Mask({size}, model {self.model[:12]}{made and f', {made}'})"


def pack_bits(bits: Bool[Tensor, " bit"]) -> UInt8[Tensor, " byte"]:
    """Return bits as bytes on the CPU, the first bit highest, the last byte filled with zeros."""
    return torch.from_numpy(np.packbits(bits.cpu().numpy()))


def unpack_bits(packed: UInt8[Tensor, " byte"], count: int) -> Bool[Tensor, " bit"]:
    """Return the first `count` bits of what `pack_bits` returned, on the CPU."""
    return torch.from_numpy(np.unpackbits(packed.numpy(), count=count).astype(bool))


@dataclass(frozen=True)
class PackedBits:
    """Bits that lie eight to the byte on the CPU; a slice of them is a tensor on a device."""

    packed: UInt8[Tensor, " byte"]
    """What `pack_bits` returned."""
    count: int
    """Number of bits."""
    device: torch.device
    """Where they are used."""

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, part: slice) -> Bool[Tensor, " bit"]:
        start, end, _ = part.indices(self.count)
        first = start // 8
        bits = unpack_bits(self.packed[first : -(-end // 8)], end - 8 * first)
        return bits[start - 8 * first :].to(self.device)

    @property
    def n_open(self) -> int:
        """Number of the bits that are true."""
        return int(np.bitwise_count(self.packed.numpy()).sum())

    @property
    def density(self) -> float:
        """Share of the bits that are true [fraction]."""
        return self.n_open / self.count


FORMAT = "knowsub-mask-1"


def save_mask(mask: Mask, path: Path) -> None:
    """Write a mask, eight weights to the byte, atomically; the same mask gives the same bytes."""
    packed = {name: pack_bits(bits.flatten()).numpy() for name, bits in mask.bits.items()}
    shapes = {name: list(bits.shape) for name, bits in mask.bits.items()}
    header = {"format": FORMAT, "model": mask.model, "shapes": shapes, "meta": dict(mask.meta)}
    write_checksummed(path, packed, header)


def load_mask(path: Path) -> Mask:
    """Read a mask and verify its checksum.

    Args:
        path: A file written by `save_mask`.

    Returns:
        The mask, equal to the one written.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no mask file, is truncated, or does not match its checksum.
    """
    packed, header = read_checksummed(path)
    version = header.get("format") if isinstance(header, dict) else None
    if version != FORMAT:
        raise ValueError(f"{path}: format {version!r}; this version reads {FORMAT!r}")
    try:
        bits = {name: _unpack(packed[name], shape) for name, shape in header["shapes"].items()}
        return Mask(bits, str(header["model"]), dict(header["meta"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: not a mask, though its checksum is right ({error})") from None


def _unpack(packed: np.ndarray[Any, np.dtype[np.uint8]], shape: list[int]) -> Tensor:
    """Return the bits of one matrix; ValueError if there are too few or too many bytes."""
    size = math.prod(shape)
    if min(shape, default=0) < 0 or packed.shape != (-(-size // 8),):
        raise ValueError(f"{packed.size} bytes for a matrix of shape {shape}")
    return unpack_bits(torch.from_numpy(packed), size).view(shape)


def check_model(mask: Mask, fingerprint: str) -> None:
    """Raise ValueError if a mask belongs to a model with another fingerprint; say what differs.

    A fingerprint without its last parts is compared by those that it has.
    """
    if error := other_model_error(mask.model, fingerprint):
        raise ValueError(error)


def union(*masks: Mask) -> Mask:
    """Return the weights that belong to any of the masks (errors: `_combine`)."""
    return _combine("union", masks, lambda votes: votes >= 1)


def intersection(*masks: Mask) -> Mask:
    """Return the weights that belong to all of the masks (errors: `_combine`)."""
    return _combine("intersection", masks, lambda votes: votes == len(masks))


def floral(*masks: Mask) -> Mask:
    """Return the weights that belong to at least two of the masks (errors: `_combine`)."""
    return _combine("floral", masks, lambda votes: votes >= 2)


def difference(first: Mask, *others: Mask) -> Mask:
    """Return the weights of the first mask that belong to none of the others."""
    return intersection(first, complement(union(*others))) if others else first


def complement(mask: Mask) -> Mask:
    """Return the maskable weights outside the mask."""
    return Mask({name: ~bits for name, bits in mask.bits.items()}, mask.model, dict(mask.meta))


def _combine(name: str, masks: tuple[Mask, ...], rule: Callable[[Tensor], Tensor]) -> Mask:
    """Return the weights whose number of masks that have it fulfils a rule.

    ValueError if there is no mask, or the masks differ in model or matrices.
    """
    if not masks:
        raise ValueError(f"{name} of no masks")
    first = masks[0]
    for other in masks[1:]:
        if other.model != first.model:
            raise ValueError(f"masks of two models: {first.model[:12]} and {other.model[:12]}")
        if differing := sorted(other.bits.keys() ^ first.bits.keys()):
            raise ValueError(f"masks over different matrices: {', '.join(differing[:5])}")
    bits = {
        matrix: rule(torch.stack([mask.bits[matrix] for mask in masks]).sum(dim=0))
        for matrix in first.bits
    }
    return Mask(bits, first.model, {"method": name, "masks": str(len(masks))})


def jaccard(first: Mask, second: Mask) -> float:
    """Return |intersection| / |union| of two masks; 1 if both are empty (errors: `_combine`)."""
    shared = intersection(first, second).size
    either = first.size + second.size - shared
    return shared / either if either else 1.0


def grow(mask: Mask, share: float, generator: torch.Generator, *, across: bool = False) -> Mask:
    """Return the mask with random weights from outside added.

    Args:
        mask: The mask.
        share: Number of weights to add, as a share of the mask's weights [fraction].
        generator: Source of randomness.
        across: Whether the weights are drawn among those of all matrices together, as in the paper;
            else each matrix gets its share.

    Returns:
        A mask that contains the given one; it cannot grow beyond all weights.
    """
    return _flip(mask, share, generator, member=False, across=across)


def shrink(mask: Mask, share: float, generator: torch.Generator, *, across: bool = False) -> Mask:
    """Return the mask without random members (arguments as for `grow`)."""
    return _flip(mask, share, generator, member=True, across=across)


def _flip(
    mask: Mask, share: float, generator: torch.Generator, *, member: bool, across: bool
) -> Mask:
    """Return the mask with random members removed, or random weights from outside added."""
    if across:
        sizes = [bits.numel() for bits in mask.bits.values()]
        flat = torch.cat([bits.flatten() for bits in mask.bits.values()])
        parts = _flipped(flat, share, generator, member=member).split(sizes)
    else:
        parts = tuple(
            _flipped(bits.flatten(), share, generator, member=member) for bits in mask.bits.values()
        )
    named = zip(mask.bits.items(), parts, strict=True)
    flipped = {name: part.view(bits.shape) for (name, bits), part in named}
    return Mask(flipped, mask.model, dict(mask.meta))


def _flipped(flat: Tensor, share: float, generator: torch.Generator, *, member: bool) -> Tensor:
    """Return bits with some random ones flipped, a share of the number of true ones."""
    candidates = (flat == member).nonzero()[:, 0]
    count = min(round(share * int(flat.sum())), len(candidates))
    chosen = candidates[torch.randperm(len(candidates), generator=generator)[:count]]
    flat = flat.clone()
    flat[chosen] = not member
    return flat


def random_masks(mask: Mask, number: int, generator: torch.Generator) -> Iterator[Mask]:
    """Yield masks of exactly as many weights in each matrix, all such masks equally likely.

    Args:
        mask: The mask whose counts are matched.
        number: Masks wanted.
        generator: Source of randomness.

    Yields:
        The masks, one at a time: a large model's do not fit into memory together.
    """
    for _ in range(number):
        bits = {}
        for name, member in mask.bits.items():
            flat = random_bits(member.numel(), int(member.sum()), generator)
            bits[name] = flat.view(member.shape)
        yield Mask(bits, mask.model, {"method": "random"})


PERMUTED = 1 << 20
"""Largest vector of which a permutation draws the random bits: of larger ones it takes too long."""


def random_bits(total: int, count: int, generator: torch.Generator) -> Bool[Tensor, " bit"]:
    """Return `total` bits of which `count` are set, all such vectors equally likely.

    Above `PERMUTED` bits the missing ones are drawn with replacement until none is missing. The
    bits are interchangeable in that, so the set is as random as a permutation's beginning.
    """
    flat = torch.zeros(total, dtype=torch.bool)
    if total <= PERMUTED:
        flat[torch.randperm(total, generator=generator)[:count]] = True
        return flat
    fewer, found = min(count, total - count), 0
    while found < fewer:
        flat[torch.randint(total, (fewer - found,), generator=generator)] = True
        found = int(flat.count_nonzero())
    return flat if fewer == count else ~flat


def random_scores(mask: Mask, generator: torch.Generator) -> dict[str, Tensor]:
    """Return a random order of the weights of each matrix, so that smaller masks nest in larger."""
    return {
        name: torch.randperm(bits.numel(), generator=generator).double().view(bits.shape)
        for name, bits in mask.bits.items()
    }
