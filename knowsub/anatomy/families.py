"""Where each architecture keeps its pieces: one row of a table, never a subclass.

To add an architecture, write its row: the paths, and for every matrix the axes of the stored
parameter, its dimensions split by a bar (`in`, `out`, `head`, `kv` for key-value heads, `dim`
within a head, `qkv` where the three are fused).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
