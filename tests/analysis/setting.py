"""Random masks of small random models."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from knowsub.architectures import MaskableMatrix, ModuleType, maskable_matrices
from knowsub.masks.mask import Mask
from tests.architectures import tiny


def tiny_matrices(kind: str = "gpt2") -> tuple[MaskableMatrix, ...]:
    return maskable_matrices(tiny(kind))


def wide_matrices(width: int = 64, heads: int = 4) -> tuple[MaskableMatrix, ...]:
    """Matrices of a GPT-2 of two masked blocks, without a model: counting needs none."""
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


def random_mask(
    matrices: Sequence[MaskableMatrix], density: float, generator: torch.Generator
) -> Mask:
    """A mask in which every weight is a member with the same probability."""
    return Mask(
        {
            matrix.name: torch.rand(matrix.shape, generator=generator) < density
            for matrix in matrices
        },
        "m",
    )


def empty_mask(matrices: Sequence[MaskableMatrix]) -> Mask:
    return Mask(
        {matrix.name: torch.zeros(matrix.shape, dtype=torch.bool) for matrix in matrices}, "m"
    )
