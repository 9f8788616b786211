"""How many of a mask's weights lie in each neuron and each attention head.

Counting needs no model: `implied_matrices` tells heads and axes from a mask's names and shapes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool
from torch import Tensor

from knowsub.architectures import ATTENTION, MaskableMatrix, ModuleType
from knowsub.masks.mask import Mask
from knowsub.masks.options import Granularity
from knowsub.masks.weights import gate_shape

Counts = npt.NDArray[np.int64]
"""Whole numbers of weights."""
Values = npt.NDArray[np.float64]
"""Real numbers, one per group, head or neuron."""


def unit_counts(
    bits: Bool[Tensor, ...], matrix: MaskableMatrix, granularity: Granularity
) -> Counts:
    """Return how many of a mask's weights lie in each neuron or head of a matrix, in order."""
    gates = gate_shape(matrix, granularity)
    summed = tuple(axis for axis, size in enumerate(gates) if size != bits.shape[axis])
    counts = np.count_nonzero(bits.numpy(), axis=summed) if summed else bits.numpy()
    return np.asarray(counts, dtype=np.int64).reshape(-1)


def head_counts(mask: Mask, matrices: Sequence[MaskableMatrix]) -> dict[str, tuple[str, int, int]]:
    """Return the weights and the mask's weights of every attention head.

    The query, key, value and output slices of one head belong together; where key-value heads are
    shared by several query heads, they are heads of their own. Name such as `block 3 head 1` ->
    (kind `head` or `kv head`, weights, weights of the mask).
    """
    query_heads = {
        matrix.block: _heads(matrix)
        for matrix in matrices
        if matrix.module_type in (ModuleType.Q, ModuleType.OUTPUT)
    }
    heads: dict[str, tuple[str, int, int]] = {}
    for matrix in matrices:
        if "head" not in matrix.axes:
            continue
        number = _heads(matrix)
        kind = "head" if number == query_heads.get(matrix.block, number) else "kv head"
        counts = unit_counts(mask.bits[matrix.name], matrix, Granularity.HEAD)
        for head, count in enumerate(counts):
            name = f"block {matrix.block} {kind} {head}"
            _, weights, members = heads.get(name, (kind, 0, 0))
            heads[name] = (kind, weights + matrix.size // number, members + int(count))
    return heads


def _heads(matrix: MaskableMatrix) -> int:
    return matrix.shape[matrix.axes.index("head")]


def implied_matrices(mask: Mask) -> tuple[MaskableMatrix, ...]:
    """Return the matrices of a mask, inferred from its names and shapes alone.

    A hidden size is at least the number of heads and at least the size of a head, and an MLP is at
    least as wide as its input; so the long end of a shape is the hidden axis of an attention
    matrix, and the MLP's inner axis. A square MLP matrix is read as `in, out`.

    Args:
        mask: Any mask.

    Returns:
        Matrices without a parameter name: good for counting, not for removing.

    Raises:
        ValueError: If a matrix's name is not of the form `blocks.3.q`.
    """
    matrices = [_implied(name, tuple(bits.shape)) for name, bits in mask.bits.items()]
    order = list(ModuleType)
    return tuple(sorted(matrices, key=lambda each: (each.block, order.index(each.module_type))))


def _implied(name: str, shape: tuple[int, ...]) -> MaskableMatrix:
    match = re.fullmatch(r"blocks\.(\d+)\.(\w+)", name)
    if match is None or match[2] not in frozenset(ModuleType):
        raise ValueError(f"matrix {name!r} is not of the form 'blocks.<number>.<module type>'")
    module_type = ModuleType(match[2])
    axes: tuple[str, ...] = ("in", "out")
    if module_type in ATTENTION and len(shape) == 3:
        hidden = "out" if module_type is ModuleType.OUTPUT else "in"
        hidden_first = shape[0] >= shape[2]
        axes = (hidden, "head", "dim") if hidden_first else ("head", "dim", hidden)
    elif shape[0] != shape[-1] and (shape[0] < shape[-1]) == (module_type is ModuleType.MLP_OUT):
        axes = ("out", "in")
    return MaskableMatrix(name, "", int(match[1]), module_type, shape, None, axes)
