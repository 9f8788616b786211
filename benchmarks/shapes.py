"""Shapes of GPT-2, and by arithmetic alone what a step of each needs."""

from __future__ import annotations

from benchmarks.workload import Shape

SHAPES = {
    "small": Shape(width=768, blocks=12, heads=12),
    "medium": Shape(width=1024, blocks=24, heads=16),
    "large": Shape(width=1280, blocks=36, heads=20),
    "xl": Shape(width=1600, blocks=48, heads=25),
}
RUNTIME = 1.0
"""Memory of libraries and of the device's context, beside the tensors [GB]."""
VECTORS = 6
"""Float32 numbers per maskable weight: logit, two moments, value or gradient, slope, weight."""
ACTIVATIONS = 18
"""Float32 numbers kept per token, block and unit of width for the way back."""


def parameters(shape: Shape) -> tuple[int, int]:
    """Return the numbers of parameters and of maskable weights."""
    block = 12 * shape.width**2
    embeddings = (shape.vocabulary + 1024) * shape.width
    return embeddings + shape.blocks * block, shape.blocks // 2 * block


def arithmetic(shape: Shape) -> float:
    """Return the operations of a step's matrix products [GFLOP]."""
    _, maskable = parameters(shape)
    told, read = shape.target + shape.control, shape.text * (shape.block - 1)
    tokens = told * (shape.statement - 1) + read
    head = shape.vocabulary * shape.width * 2 * (told + read)
    return 2 * (3 * tokens * maskable + head) / 1e9


def memory(shape: Shape) -> float:
    """Return the modelled memory of a step [GB]."""
    total, maskable = parameters(shape)
    left = total - 12 * shape.width**2 * (shape.blocks // 2)
    tokens = max(shape.text * shape.block, (shape.target + shape.control) * shape.statement)
    kept = tokens * shape.blocks // 2 * ACTIVATIONS * shape.width
    head = 3 * 128 * shape.vocabulary
    return RUNTIME + 4 * (left + VECTORS * maskable + kept + head) / 1e9
