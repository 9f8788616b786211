"""Options of the stage `pretrain`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Dtype(StrEnum):
    """Number format of a model's weights. Member names equal values, as the names are matched."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@dataclass
class PretrainOptions:
    """Which model is looked into, and how the embedded one is made."""

    model: str
    """`embedded` (trained here from scratch), a hub id, or a local folder."""
    revision: str
    """Git revision of a hub model; empty for its main branch [branch, tag or commit]."""
    dtype: Dtype
    """Number format that the weights are loaded in; the embedded model is float32."""
    blocks: int
    """Transformer blocks of the embedded model [blocks]."""
    width: int
    """Hidden size of the embedded model [features]."""
    heads: int
    """Attention heads of the embedded model; must divide its width [heads]."""
    vocabulary: int
    """Entries of the embedded tokenizer [tokens]."""
    context: int
    """Context of the embedded model [tokens]."""
    steps: int
    """Optimiser steps."""
    statements: int
    """Statements per step."""
    text_blocks: int
    """Text blocks per step."""
    block_tokens: int
    """Length of a text block [tokens]."""
    text_weight: float
    """Coefficient of the text's loss; that of the statements is 1."""
    matrix_lr: float
    """Peak learning rate of Muon, on the matrices of the upper half."""
    lr: float
    """Peak learning rate of AdamW, on embeddings, norms and biases."""
    warmup: float
    """Share of the steps over which the learning rate rises [fraction]."""
    decay: float
    """Share of the steps over which it falls to zero at the end [fraction]."""
    weight_decay: float
    """Decoupled weight decay, per unit of learning rate."""
    max_object_perplexity: float
    """Largest tail PPL over the taught statements that the finished model may have."""
    seed: int
    """Of initialisation and order."""

    def __post_init__(self) -> None:
        """Refuse impossible values.

        Raises:
            ValueError: If a value is out of its range; the message names the key.
        """
        ranges = {
            "blocks": (2, 48), "width": (8, 4096), "heads": (1, 64), "vocabulary": (260, 100_000),
            "context": (8, 8192), "steps": (1, 1_000_000), "statements": (1, 100_000),
            "text_blocks": (1, 10_000), "block_tokens": (2, self.context), "text_weight": (0, 100),
            "matrix_lr": (1e-6, 1), "lr": (1e-6, 1), "warmup": (0, 1),
            "decay": (0, 1), "weight_decay": (0, 10),
            "max_object_perplexity": (1, 1e9), "seed": (0, 2**32 - 1),
        }  # fmt: skip
        for key, (low, high) in ranges.items():
            value = getattr(self, key)
            _refuse(not low <= value <= high, key, value, f"{low} to {high}")
        _refuse(not self.model.strip(), "model", self.model, "embedded, a hub id or a folder")
        divides = f"a divisor of width {self.width}"
        _refuse(self.width % self.heads != 0, "heads", self.heads, divides)
        total = self.warmup + self.decay
        _refuse(total > 1, "warmup + decay", total, "at most 1 together")


def _refuse(wrong: bool, key: str, value: object, allowed: str) -> None:
    if wrong:
        raise ValueError(f"{key}: value {value!r} is not allowed; allowed: {allowed}")
