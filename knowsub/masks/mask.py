"""A critical subnetwork as a value: which weights belong to it, and of which model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


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
