"""Random masks of small random models."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from knowsub.architectures import MaskableMatrix, ModuleType, maskable_matrices
from knowsub.masks.mask import Mask
from tests.architectures import tiny


def places(kind: str = "gpt2") -> tuple[MaskableMatrix, ...]:
    return maskable_matrices(tiny(kind))


def wide_places(width: int = 64, heads: int = 4) -> tuple[MaskableMatrix, ...]:
    """Sites of a GPT-2 of two masked blocks, without a model: counting needs none."""
    size = width // heads
    shapes = {
        "q": ((width, heads, size), ("in", "head", "dim")),
        "output": ((heads, size, width), ("head", "dim", "out")),
        "mlp_in": ((width, 4 * width), ("in", "out")),
        "mlp_out": ((4 * width, width), ("in", "out")),
    }
    return tuple(
        MaskableMatrix(f"blocks.{block}.{part}", "", block, ModuleType(part), shape, None, axes)
        for block in (2, 3)
        for part, (shape, axes) in shapes.items()
    )


def drawn(sites: Sequence[MaskableMatrix], density: float, generator: torch.Generator) -> Mask:
    """A mask in which every weight is a member with the same probability."""
    return Mask(
        {site.name: torch.rand(site.shape, generator=generator) < density for site in sites}, "m"
    )


def empty(sites: Sequence[MaskableMatrix]) -> Mask:
    return Mask({site.name: torch.zeros(site.shape, dtype=torch.bool) for site in sites}, "m")
