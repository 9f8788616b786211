"""Options of the stages `pretrain` and `retain`."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from knowsub.ranges import BLOCKS, Fraction, Seed, Text, block_range, require


class Dtype(StrEnum):
    """Number format of a model's weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


PeakRate = Annotated[float, Field(ge=1e-6, le=1)]


@dataclass
class PretrainOptions:
    """Which model is examined, and how the embedded one is trained."""

    model: Text
    """`embedded` (trained here from scratch), a hub id, or a local folder."""
    revision: str
    """Git revision of a hub model; empty for its main branch [branch, tag or commit]."""
    dtype: Dtype
    """Number format that the weights are loaded in; the embedded model is float32."""
    nf4_blocks: Annotated[str, Field(pattern=rf"^(none|lower_half|{BLOCKS})$")]
    """Blocks of a pretrained model whose matrices are kept in 4 bits, none of them masked."""
    chat: bool
    """Whether prompts are the user's turn in the model's own chat template."""
    blocks: Annotated[int, Field(ge=2, le=48)]
    """Transformer blocks of the embedded model [blocks]."""
    width: Annotated[int, Field(ge=8, le=4096)]
    """Hidden size of the embedded model [features]."""
    heads: Annotated[int, Field(ge=1, le=64)]
    """Attention heads of the embedded model; must divide its width [heads]."""
    vocabulary: Annotated[int, Field(ge=260, le=100_000)]
    """Entries of the embedded tokenizer [tokens]."""
    context: Annotated[int, Field(ge=8, le=8192)]
    """Context of the embedded model [tokens]."""
    steps: Annotated[int, Field(ge=1, le=1_000_000)]
    """Optimizer steps [steps]."""
    statements: Annotated[int, Field(ge=1, le=100_000)]
    """Statements per step [statements]."""
    text_blocks: Annotated[int, Field(ge=1, le=10_000)]
    """Text blocks per step [blocks]."""
    block_tokens: Annotated[int, Field(ge=2, le=8192)]
    """Length of a text block, at most the context [tokens]."""
    text_weight: Annotated[float, Field(ge=0, le=100)]
    """Coefficient of the text's loss; that of the statements is 1."""
    matrix_lr: PeakRate
    """Peak learning rate of Muon, on the matrices of the upper half."""
    lr: PeakRate
    """Peak learning rate of AdamW, on embeddings, norms and biases."""
    warmup: Fraction
    """Share of the steps over which the learning rate rises [fraction]."""
    decay: Fraction
    """Share of the steps over which it falls to zero at the end [fraction]."""
    weight_decay: Annotated[float, Field(ge=0, le=10)]
    """Decoupled weight decay, per unit of learning rate."""
    max_object_perplexity: Annotated[float, Field(ge=1, le=1e9)]
    """Largest object perplexity over the training statements that the finished model may have."""
    seed: Seed
    """Of initialization and order."""

    def __post_init__(self) -> None:
        """Refuse values that do not fit together (ValueError)."""
        some = self.nf4_blocks == "none" or block_range(self.nf4_blocks, 10**7, "nf4_blocks")
        allowed = "none, lower_half, or first-end such as 0-16"
        require(bool(some), "nf4_blocks", self.nf4_blocks, allowed)
        plain = self.nf4_blocks == "none" or self.model != "embedded"
        require(plain, "nf4_blocks", self.nf4_blocks, "none for model: embedded, which is small")
        chats = not (self.chat and self.model == "embedded")
        require(chats, "chat", self.chat, "false for model: embedded, which has no chat template")
        fits = self.block_tokens <= self.context
        require(fits, "block_tokens", self.block_tokens, f"at most context, {self.context}")
        divides = self.width % self.heads == 0
        require(divides, "heads", self.heads, f"a divisor of width, {self.width}")
        total = self.warmup + self.decay
        require(total <= 1, "warmup + decay", total, "at most 1 together")

    @property
    def source(self) -> tuple[str, str, str, str]:
        """Name, revision, blocks in nf4 and dtype of a pretrained model."""
        return self.model, self.revision, self.nf4_blocks, self.dtype.value


@dataclass
class RetainOptions:
    """Whether there is a model that never knew the targets, to hold removals against."""

    enabled: bool
    """Whether the embedded model is trained a second time, without any target's facts."""
