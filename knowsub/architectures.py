"""Where each architecture keeps its blocks, its attention and MLP matrices, and its final norm.

To add an architecture:

1. Add its row to `ARCHITECTURES` under the `model_type` of its Hugging Face configuration: the
   module paths, and for every matrix the axes of the stored parameter. A bar splits the parameter's
   two dimensions; the axes are `in`, `out`, `head`, `kv` (key-value heads), `dim` (within a head),
   `qkv` (query, key and value fused in one parameter) and `pair` (gate and input of an MLP fused).
   `head+kv+kv` are matrices of different sizes one after another in one parameter.
2. Add a tiny configuration to `CONFIGS` in `tests/architectures.py` if its row has something new,
   else to `ALIKE` there.
3. Run `pytest tests/test_architectures.py tests/masks tests/lm`: every test there runs on every
   architecture, and compares each matrix with what the model computes with it.

What stands between blocks and logits is part of the row too (`after`, `logit_scale` ...). When a
model is opened it is compared with its own forward pass (`lm.load`), so that nothing is forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


class ModuleType(StrEnum):
    """What a maskable matrix does within its block."""

    Q = "q"
    K = "k"
    V = "v"
    OUTPUT = "output"
    MLP_IN = "mlp_in"
    MLP_GATE = "mlp_gate"
    MLP_OUT = "mlp_out"


ATTENTION = (ModuleType.Q, ModuleType.K, ModuleType.V, ModuleType.OUTPUT)
MLP = (ModuleType.MLP_IN, ModuleType.MLP_GATE, ModuleType.MLP_OUT)
_QKV = (ModuleType.Q, ModuleType.K, ModuleType.V)


@dataclass(frozen=True, slots=True)
class WeightSpec:
    """One stored parameter of a block."""

    path: str
    """Path of the module within the block."""
    axes: str
    """Axes of the stored parameter, its two dimensions split by a bar: `in | qkv head dim`."""
    module_types: tuple[ModuleType, ...]
    """What the parameter holds: one matrix, or three along its `qkv` axis."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """Module paths and maskable parameters of one architecture."""

    blocks: str
    """Path of the list of blocks."""
    norm: str
    """Path of the final norm; a model may lack it."""
    positions: str | None
    """Path of the position embedding that is added to the input embeddings, None if rotary."""
    matrices: tuple[WeightSpec, ...]
    """The maskable parameters of a block."""
    before: tuple[str, ...] = ()
    """Paths of modules between the input embeddings and the first block; a model may lack them."""
    after: tuple[str, ...] = ()
    """Paths of modules between the final norm and the LM head; a model may lack them."""
    input_scale: str | None = None
    """Path of the number that the first block's input is multiplied by, None if there is none."""
    logit_scale: str | None = None
    """Entry of the configuration that the logits are multiplied by, None if there is none."""
    logit_divisor: str | None = None
    """Entry of the configuration that the logits are divided by, None if there is none."""
    logit_cap: str | None = None
    """Entry of the configuration c with logits c tanh(logits / c), None if there is none."""


_GROUPED_QUERIES = (
    WeightSpec("self_attn.q_proj", "head dim | in", (ModuleType.Q,)),
    WeightSpec("self_attn.k_proj", "kv dim | in", (ModuleType.K,)),
    WeightSpec("self_attn.v_proj", "kv dim | in", (ModuleType.V,)),
)
_ATTENTION = (
    *_GROUPED_QUERIES,
    WeightSpec("self_attn.o_proj", "out | head dim", (ModuleType.OUTPUT,)),
)
_FUSED_MLP = (
    WeightSpec("mlp.gate_up_proj", "pair out | in", (ModuleType.MLP_GATE, ModuleType.MLP_IN)),
    WeightSpec("mlp.down_proj", "out | in", (ModuleType.MLP_OUT,)),
)
_LLAMA = Architecture(
    blocks="model.layers",
    norm="model.norm",
    positions=None,
    matrices=(
        *_ATTENTION,
        WeightSpec("mlp.gate_proj", "out | in", (ModuleType.MLP_GATE,)),
        WeightSpec("mlp.up_proj", "out | in", (ModuleType.MLP_IN,)),
        WeightSpec("mlp.down_proj", "out | in", (ModuleType.MLP_OUT,)),
    ),
)
_GEMMA = replace(_LLAMA, logit_cap="final_logit_softcapping")
_COHERE = replace(_LLAMA, logit_scale="logit_scale")

ARCHITECTURES: dict[str, Architecture] = {
    "bloom": Architecture(
        blocks="transformer.h",
        norm="transformer.ln_f",
        positions=None,
        before=("transformer.word_embeddings_layernorm",),
        matrices=(
            WeightSpec("self_attention.query_key_value", "head qkv dim | in", _QKV),
            WeightSpec("self_attention.dense", "out | head dim", (ModuleType.OUTPUT,)),
            WeightSpec("mlp.dense_h_to_4h", "out | in", (ModuleType.MLP_IN,)),
            WeightSpec("mlp.dense_4h_to_h", "out | in", (ModuleType.MLP_OUT,)),
        ),
    ),
    "cohere": _COHERE,
    "cohere2": _COHERE,
    "gemma": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,  # norms around each half of a block and in the heads are no matrices
    "glm": replace(_LLAMA, matrices=(*_ATTENTION, *_FUSED_MLP)),
    "gpt2": Architecture(
        blocks="transformer.h",
        norm="transformer.ln_f",
        positions="transformer.wpe",
        matrices=(
            WeightSpec("attn.c_attn", "in | qkv head dim", _QKV),
            WeightSpec("attn.c_proj", "head dim | out", (ModuleType.OUTPUT,)),
            WeightSpec("mlp.c_fc", "in | out", (ModuleType.MLP_IN,)),
            WeightSpec("mlp.c_proj", "in | out", (ModuleType.MLP_OUT,)),
        ),
    ),
    "gpt_neo": Architecture(
        blocks="transformer.h",
        norm="transformer.ln_f",
        positions="transformer.wpe",
        matrices=(
            WeightSpec("attn.attention.q_proj", "head dim | in", (ModuleType.Q,)),
            WeightSpec("attn.attention.k_proj", "head dim | in", (ModuleType.K,)),
            WeightSpec("attn.attention.v_proj", "head dim | in", (ModuleType.V,)),
            WeightSpec("attn.attention.out_proj", "out | head dim", (ModuleType.OUTPUT,)),
            WeightSpec("mlp.c_fc", "out | in", (ModuleType.MLP_IN,)),
            WeightSpec("mlp.c_proj", "out | in", (ModuleType.MLP_OUT,)),
        ),
    ),
    "gpt_neox": Architecture(
        blocks="gpt_neox.layers",
        norm="gpt_neox.final_layer_norm",
        positions=None,
        matrices=(
            WeightSpec("attention.query_key_value", "head qkv dim | in", _QKV),
            WeightSpec("attention.dense", "out | head dim", (ModuleType.OUTPUT,)),
            WeightSpec("mlp.dense_h_to_4h", "out | in", (ModuleType.MLP_IN,)),
            WeightSpec("mlp.dense_4h_to_h", "out | in", (ModuleType.MLP_OUT,)),
        ),
    ),
    "gptj": Architecture(
        blocks="transformer.h",
        norm="transformer.ln_f",
        positions=None,
        matrices=(
            WeightSpec("attn.q_proj", "head dim | in", (ModuleType.Q,)),
            WeightSpec("attn.k_proj", "head dim | in", (ModuleType.K,)),
            WeightSpec("attn.v_proj", "head dim | in", (ModuleType.V,)),
            WeightSpec("attn.out_proj", "out | head dim", (ModuleType.OUTPUT,)),
            WeightSpec("mlp.fc_in", "out | in", (ModuleType.MLP_IN,)),
            WeightSpec("mlp.fc_out", "out | in", (ModuleType.MLP_OUT,)),
        ),
    ),
    "granite": replace(
        _LLAMA, input_scale="model.embedding_multiplier", logit_divisor="logits_scaling"
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "olmo": _LLAMA,
    "olmo2": _LLAMA,
    "olmo3": _LLAMA,
    "opt": Architecture(
        blocks="model.decoder.layers",
        norm="model.decoder.final_layer_norm",
        positions="model.decoder.embed_positions",
        before=("model.decoder.project_in",),
        after=("model.decoder.project_out",),
        matrices=(
            *_GROUPED_QUERIES,
            WeightSpec("self_attn.out_proj", "out | head dim", (ModuleType.OUTPUT,)),
            WeightSpec("fc1", "out | in", (ModuleType.MLP_IN,)),
            WeightSpec("fc2", "out | in", (ModuleType.MLP_OUT,)),
        ),
    ),
    "phi": Architecture(
        blocks="model.layers",
        norm="model.final_layernorm",
        positions=None,
        matrices=(
            *_GROUPED_QUERIES,
            WeightSpec("self_attn.dense", "out | head dim", (ModuleType.OUTPUT,)),
            WeightSpec("mlp.fc1", "out | in", (ModuleType.MLP_IN,)),
            WeightSpec("mlp.fc2", "out | in", (ModuleType.MLP_OUT,)),
        ),
    ),
    "phi3": replace(
        _LLAMA,
        matrices=(
            WeightSpec("self_attn.qkv_proj", "head+kv+kv dim | in", _QKV),
            WeightSpec("self_attn.o_proj", "out | head dim", (ModuleType.OUTPUT,)),
            *_FUSED_MLP,
        ),
    ),
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "smollm3": _LLAMA,
    "stablelm": _LLAMA,
    "starcoder2": replace(
        _LLAMA,
        matrices=(
            *_ATTENTION,
            WeightSpec("mlp.c_fc", "out | in", (ModuleType.MLP_IN,)),
            WeightSpec("mlp.c_proj", "out | in", (ModuleType.MLP_OUT,)),
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class MaskableMatrix:
    """One maskable matrix of a model: a whole parameter, or a slice of a fused one."""

    name: str
    """Unique name within the model: `blocks.3.q`."""
    parameter: str
    """Name of the parameter that stores it: `transformer.h.3.attn.c_attn.weight`."""
    block: int
    """0-based index of its block; -1 for the input embedding, which is below all blocks."""
    module_type: ModuleType | None
    """What it does within the block; None for the input embedding."""
    view_shape: tuple[int, ...]
    """Shape that the parameter is viewed with, storage order kept."""
    select: tuple[int, int] | None
    """(axis, index) of this matrix in the view of a fused parameter; None if it is not fused."""
    axes: tuple[str, ...]
    """Names of the axes of `shape`: of `in`, `out`, `head`, `dim`."""
    rows: tuple[int, int] | None = None
    """(start, number) of the parameter's rows that are viewed, None if all of them are."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the matrix's tensors (weights, mask bits)."""
        selected = None if self.select is None else self.select[0]
        return tuple(size for axis, size in enumerate(self.view_shape) if axis != selected)

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def input_axes(self) -> tuple[str, ...]:
        """Names of the axes that the layer reads from; the others are written to."""
        return ("in",) if "in" in self.axes else ("head", "dim")

    def view(self, parameter: Tensor) -> Tensor:
        """Return the matrix's part of its parameter, sharing memory.

        Args:
            parameter: The stored parameter, or a contiguous tensor of its shape (gradient, bits).

        Returns:
            A view of shape `self.shape`; writing to it writes to the parameter.
        """
        rows = parameter if self.rows is None else parameter.narrow(0, *self.rows)
        whole = rows.view(self.view_shape)
        return whole if self.select is None else whole.select(*self.select)


def architecture(model: nn.Module) -> Architecture:
    """Return a Hugging Face decoder's row of `ARCHITECTURES`; ValueError if it has none."""
    if hasattr(model, "get_base_model"):  # whose paths lead elsewhere
        raise ValueError("the model is wrapped by peft; give what its get_base_model() returns")
    model_type = str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))
    if model_type not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ValueError(
            f"model type {model_type!r} is not in the table (known: {known}); "
            "add its row to ARCHITECTURES in knowsub/architectures.py"
        )
    return ARCHITECTURES[model_type]


def block_count(model: nn.Module) -> int:
    """Return the number of transformer blocks of a model (ValueError as in `architecture`)."""
    return len(list(model.get_submodule(architecture(model).blocks).children()))


def upper_half(model: nn.Module) -> range:
    """Return the indices of the upper half of the blocks, the paper's maskable ones."""
    blocks = block_count(model)
    return range(blocks // 2, blocks)


def maskable_matrices(
    model: nn.Module,
    blocks: Iterable[int] | None = None,
    module_types: Iterable[ModuleType] | None = None,
) -> tuple[MaskableMatrix, ...]:
    """Return the maskable matrices of a model, in order of block and table row.

    Args:
        model: A Hugging Face decoder of a known architecture.
        blocks: 0-based indices of the blocks; None means the upper half.
        module_types: Types of matrices wanted; None means all of them.

    Returns:
        The matrices. Biases, norms, embeddings and the LM head are never among them.

    Raises:
        ValueError: If the architecture is unknown, a block does not exist, nothing remains, or
            `peft` has put another matrix in the place of one.
    """
    row, total = architecture(model), block_count(model)
    wanted = frozenset(ModuleType if module_types is None else module_types)
    indices = sorted(upper_half(model) if blocks is None else set(blocks))
    if outside := [index for index in indices if not 0 <= index < total]:
        raise ValueError(
            f"block {outside[0]} does not exist: the model has blocks 0 to {total - 1}"
        )
    matrices = tuple(
        matrix
        for index in indices
        for spec in row.matrices
        for matrix in _matrices_of(model, f"{row.blocks}.{index}.{spec.path}", index, spec)
        if matrix.module_type in wanted
    )
    if not matrices:
        raise ValueError(f"no maskable matrix in blocks {indices} with modules {sorted(wanted)}")
    return matrices


def _matrices_of(model: nn.Module, path: str, block: int, spec: WeightSpec) -> list[MaskableMatrix]:
    """Return the matrices that the weight of one module holds, one per module type."""
    if hasattr(model.get_submodule(path), "original_module"):
        raise ValueError(
            f"{path} was trained as a whole (modules_to_save): merge the adapter first"
        )
    if hasattr(model.get_submodule(path), "base_layer"):  # an adapter of `peft` lies on top
        path = f"{path}.base_layer"
    parameter = f"{path}.weight"
    if not model.get_parameter(parameter).is_floating_point():
        raise ValueError(f"{parameter} is quantized; a mask is of plain numbers")
    stored = [dimension.split() for dimension in spec.axes.split("|")]
    shape, first_row, matrices = model.get_parameter(parameter).shape, 0, []
    for index, module_type in enumerate(spec.module_types):
        # Of axes that lie one after another, `head+kv+kv`, each matrix has its own.
        by_dimension = [
            [axis.split("+")[index if "+" in axis else 0] for axis in axes] for axes in stored
        ]
        sizes = [
            _axis_sizes(model.config, *each)
            for each in zip(stored, by_dimension, shape, strict=True)
        ]
        axes = [axis for dimension in by_dimension for axis in dimension]
        fused = next((axis for axis in ("qkv", "pair") if axis in axes), None)
        n_rows = math.prod(sizes[0])
        matrices.append(
            MaskableMatrix(
                name=f"blocks.{block}.{module_type}",
                parameter=parameter,
                block=block,
                module_type=module_type,
                view_shape=tuple(size for dimension in sizes for size in dimension),
                select=(axes.index(fused), index) if fused else None,
                axes=tuple("head" if axis == "kv" else axis for axis in axes if axis != fused),
                rows=(first_row, n_rows) if "+" in spec.axes else None,
            )
        )
        first_row += n_rows
    return matrices


def _axis_sizes(config: Any, stored: list[str], axes: list[str], size: int) -> tuple[int, ...]:
    """Split one stored dimension into the axes of one matrix; a lone axis takes the whole of it."""
    if len(axes) == 1:
        return (size,)
    heads = int(config.num_attention_heads)
    kv_heads = int(getattr(config, "num_key_value_heads", 0) or heads)
    known = {"qkv": 3, "pair": 2, "head": heads, "kv": kv_heads}
    fixed = [axis for axis in stored if axis not in ("out", "dim")]
    rest = size // math.prod(sum(known[part] for part in axis.split("+")) for axis in fixed)
    return tuple(known.get(axis, rest) for axis in axes)
