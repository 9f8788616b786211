"""Where the blocks, the attention and MLP matrices and the heads of each architecture live.

Knowledge about an architecture is a row of `FAMILIES`, never a subclass. To add one, write its
row: the paths, and for every matrix the axes of the stored parameter in order (`in`, `out`,
`head`, `dim` within a head, `qkv` where the three are fused).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


class Part(StrEnum):
    """What a maskable matrix does within its block."""

    Q = "q"
    K = "k"
    V = "v"
    OUTPUT = "output"
    MLP_IN = "mlp_in"
    MLP_GATE = "mlp_gate"
    MLP_OUT = "mlp_out"


ATTENTION = (Part.Q, Part.K, Part.V, Part.OUTPUT)
MLP = (Part.MLP_IN, Part.MLP_GATE, Part.MLP_OUT)


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


@dataclass(frozen=True, slots=True)
class Matrix:
    """One stored parameter of a block."""

    path: str
    """Path of the module within the block."""
    axes: str
    """Axes of the stored parameter, its two dimensions split by a bar: `in | qkv head dim`."""
    parts: tuple[Part, ...]
    """The parts it holds: one, or three along its `qkv` axis."""


@dataclass(frozen=True, slots=True)
class Family:
    """Where one architecture keeps its pieces."""

    blocks: str
    """Path of the list of blocks."""
    norm: str
    """Path of the final norm."""
    positions: str | None
    """Path of the position embedding that is added to the input embeddings, None if rotary."""
    matrices: tuple[Matrix, ...]
    """The maskable parameters of a block."""


_LLAMA = Family(
    blocks="model.layers",
    norm="model.norm",
    positions=None,
    matrices=(
        Matrix("self_attn.q_proj", "head dim | in", (Part.Q,)),
        Matrix("self_attn.k_proj", "kv dim | in", (Part.K,)),
        Matrix("self_attn.v_proj", "kv dim | in", (Part.V,)),
        Matrix("self_attn.o_proj", "out | head dim", (Part.OUTPUT,)),
        Matrix("mlp.gate_proj", "out | in", (Part.MLP_GATE,)),
        Matrix("mlp.up_proj", "out | in", (Part.MLP_IN,)),
        Matrix("mlp.down_proj", "out | in", (Part.MLP_OUT,)),
    ),
)

FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        blocks="transformer.h",
        norm="transformer.ln_f",
        positions="transformer.wpe",
        matrices=(
            Matrix("attn.c_attn", "in | qkv head dim", (Part.Q, Part.K, Part.V)),
            Matrix("attn.c_proj", "head dim | out", (Part.OUTPUT,)),
            Matrix("mlp.c_fc", "in | out", (Part.MLP_IN,)),
            Matrix("mlp.c_proj", "in | out", (Part.MLP_OUT,)),
        ),
    ),
    "gpt_neox": Family(
        blocks="gpt_neox.layers",
        norm="gpt_neox.final_layer_norm",
        positions=None,
        matrices=(
            Matrix("attention.query_key_value", "head qkv dim | in", (Part.Q, Part.K, Part.V)),
            Matrix("attention.dense", "out | head dim", (Part.OUTPUT,)),
            Matrix("mlp.dense_h_to_4h", "out | in", (Part.MLP_IN,)),
            Matrix("mlp.dense_4h_to_h", "out | in", (Part.MLP_OUT,)),
        ),
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "opt": Family(
        blocks="model.decoder.layers",
        norm="model.decoder.final_layer_norm",
        positions="model.decoder.embed_positions",
        matrices=(
            Matrix("self_attn.q_proj", "head dim | in", (Part.Q,)),
            Matrix("self_attn.k_proj", "head dim | in", (Part.K,)),
            Matrix("self_attn.v_proj", "head dim | in", (Part.V,)),
            Matrix("self_attn.out_proj", "out | head dim", (Part.OUTPUT,)),
            Matrix("fc1", "out | in", (Part.MLP_IN,)),
            Matrix("fc2", "out | in", (Part.MLP_OUT,)),
        ),
    ),
}


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
            "add its row to FAMILIES in knowsub/anatomy.py"
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
    sizes = [_group_sizes(model.config, group, size) for group, size in zip(groups, shape, strict=True)]
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
