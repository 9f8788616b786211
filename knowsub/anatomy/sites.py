"""The maskable matrices of a model: which parameter stores each, and how to look at it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from knowsub.anatomy.families import FAMILIES, Family, Matrix, Part

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Site:
    """One maskable matrix: a whole parameter, or the slice of a fused one."""

    name: str
    """Unique name within the model: `blocks.3.q`."""
    parameter: str
    """Name of the parameter that stores it: `transformer.h.3.attn.c_attn.weight`."""
    block: int
    """0-based index of its block."""
    part: Part
    """What it does within the block."""
    layout: tuple[int, ...]
    """Shape that the parameter is viewed with, storage order kept."""
    select: tuple[int, int] | None
    """(axis, index) taken of that view where several parts are fused, or None."""
    axes: tuple[str, ...]
    """Names of the axes of `shape`: of `in`, `out`, `head`, `dim`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the site's tensors (weights, bits, logits)."""
        taken = None if self.select is None else self.select[0]
        return tuple(size for axis, size in enumerate(self.layout) if axis != taken)

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def input_axes(self) -> tuple[str, ...]:
        """Names of the axes that the layer reads from; the others are written to."""
        return ("in",) if "in" in self.axes else ("head", "dim")

    def view(self, parameter: Tensor) -> Tensor:
        """Return the site's part of its parameter, sharing memory.

        Args:
            parameter: The stored parameter, or a contiguous tensor of its shape (gradient, bits).

        Returns:
            A view of shape `self.shape`; writing to it writes to the parameter.

        Raises:
            RuntimeError: If the tensor is not contiguous or has another number of elements.
        """
        whole = parameter.view(self.layout)
        return whole if self.select is None else whole.select(*self.select)


def family(model: nn.Module) -> Family:
    """Return the row of the table for a model.

    Args:
        model: A Hugging Face decoder; its `config.model_type` is looked up.

    Returns:
        The row.

    Raises:
        ValueError: If the architecture has no row; the message says how to add one.
    """
    kind = str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))
    if kind not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ValueError(
            f"model type {kind!r} is not in the table (known: {known}); "
            "add its row to FAMILIES in knowsub/anatomy/families.py"
        )
    return FAMILIES[kind]


def block_count(model: nn.Module) -> int:
    """Return the number of transformer blocks of a model (ValueError as in `family`)."""
    return len(list(model.get_submodule(family(model).blocks).children()))


def upper_half(model: nn.Module) -> range:
    """Return the indices of the upper half of the blocks, the paper's maskable ones."""
    blocks = block_count(model)
    return range(blocks // 2, blocks)


def sites(
    model: nn.Module, blocks: Iterable[int] | None = None, parts: Iterable[Part] | None = None
) -> tuple[Site, ...]:
    """Return the maskable matrices of a model, in order of block and table row.

    Args:
        model: A Hugging Face decoder of a known family.
        blocks: 0-based indices of the blocks; None means the upper half.
        parts: Parts wanted; None means all of them.

    Returns:
        The sites. Biases, norms, embeddings and the LM head are never among them.

    Raises:
        ValueError: If the architecture is unknown, a block does not exist, or nothing remains.
    """
    row, total = family(model), block_count(model)
    wanted = frozenset(Part) if parts is None else frozenset(parts)
    indices = sorted(upper_half(model) if blocks is None else set(blocks))
    if outside := [index for index in indices if not 0 <= index < total]:
        raise ValueError(
            f"block {outside[0]} does not exist: the model has blocks 0 to {total - 1}"
        )
    found = tuple(
        site
        for index in indices
        for matrix in row.matrices
        for site in _matrix_sites(model, row, index, matrix)
        if site.part in wanted
    )
    if not found:
        raise ValueError(f"no maskable matrix in blocks {indices} with parts {sorted(wanted)}")
    return found


def _matrix_sites(model: nn.Module, row: Family, block: int, matrix: Matrix) -> list[Site]:
    parameter = f"{row.blocks}.{block}.{matrix.path}.weight"
    shape = tuple(model.get_parameter(parameter).shape)
    groups = [group.split() for group in matrix.axes.split("|")]
    sizes = [
        _group_sizes(model.config, group, size) for group, size in zip(groups, shape, strict=True)
    ]
    layout = tuple(size for group in sizes for size in group)
    axes = [axis for group in groups for axis in group]
    names = tuple("head" if axis == "kv" else axis for axis in axes if axis != "qkv")
    fused = axes.index("qkv") if "qkv" in axes else None
    return [
        Site(
            name=f"blocks.{block}.{part}",
            parameter=parameter,
            block=block,
            part=part,
            layout=layout,
            select=None if fused is None else (fused, position),
            axes=names,
        )
        for position, part in enumerate(matrix.parts)
    ]


def _group_sizes(config: Any, axes: list[str], size: int) -> tuple[int, ...]:
    """Split one stored dimension into its axes; a lone axis takes the whole of it."""
    if len(axes) == 1:
        return (size,)
    heads = int(config.num_attention_heads)
    known = {"qkv": 3, "head": heads, "kv": int(getattr(config, "num_key_value_heads", 0) or heads)}
    counted = math.prod(known[axis] for axis in axes if axis != "dim")
    return tuple(known.get(axis, size // counted) for axis in axes)
