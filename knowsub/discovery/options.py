"""Options of the stage `train`: how a critical subnetwork is searched for."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from knowsub.architectures import ModuleType
from knowsub.masks.options import Estimator, Granularity
from knowsub.ranges import (
    BLOCKS,
    Count,
    Fraction,
    OpenFraction,
    PositiveFraction,
    Ratio,
    Tokens,
    Weight,
    block_range,
    require,
)


class Suppression(StrEnum):
    """Loss that removes the target's objects from the remaining model's predictions."""

    UNIFORM = "uniform"
    PRIOR = "prior"
    UNLIKELIHOOD = "unlikelihood"
    ZSCORE_LABEL = "zscore_label"
    ZSCORE_ALL = "zscore_all"


class Samples(StrEnum):
    """How often the gates are sampled in a step.

    `shared`: once, and every term of the objective reads that sample; `per_term`: anew for every
    term, in a forward pass of its own, as the reference does.
    """

    SHARED = "shared"
    PER_TERM = "per_term"


class Candidates(StrEnum):
    """Which validated masks may become the result; where noise falls, it is the last alone."""

    ALL = "all"
    LAST = "last"


class Precision(StrEnum):
    """Number format of the matrix products of a step."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Padding(StrEnum):
    """How sequences of several lengths are read on a CPU."""

    WIDEST = "widest"
    NONE = "none"


class GateMemory(StrEnum):
    """What a search keeps per gate beside its logit and its remaining weight.

    `full`: Adam's moments, the sample, its slope or gradient, as vectors; `redrawn`: the moments
    alone, the sample is drawn twice and each matrix updated as soon as its gradient has arrived;
    `8bit`: the moments in 8 bits each, too.
    """

    FULL = "full"
    REDRAWN = "redrawn"
    EIGHT_BIT = "8bit"


class HeadVocabulary(StrEnum):
    """Tokens of the LM head that the losses compare."""

    FULL = "full"
    SEEN = "seen"


class Matmul(StrEnum):
    """Library that computes float32 matrix products on the CPU."""

    DEFAULT = "default"
    ONEDNN = "onednn"


@dataclass
class TrainOptions:
    """How a critical subnetwork is searched for."""

    granularity: Granularity
    """What one gate covers."""
    estimator: Estimator
    """How gates are sampled and differentiated."""
    blocks: Annotated[str, Field(pattern=rf"^(upper_half|{BLOCKS})$")]
    """Blocks that are masked: `upper_half`, or `first:end` with 0-based `first` and open `end`;
    `first-end` is the same and needs no quotes in YAML."""
    modules: Annotated[list[ModuleType], Field(min_length=1)]
    """Kinds of matrices that are masked."""
    embeddings: bool
    """Whether the input embeddings of tokens in target statements are masked too, and those of
    tokens that no preserved fact's prompt has removed whole."""
    init_prob: OpenFraction
    """Initial probability of an open gate [fraction]."""
    samples: Samples
    """How often the gates are sampled in a step."""
    temperature: Annotated[float, Field(gt=0, le=10)]
    """Temperature of the relaxation."""
    noise_final: Fraction
    """Scale of the noise at the last step, from 1 [fraction]."""
    noise_decay_start: Fraction
    """Share of the steps after which the scale of the noise falls [fraction]."""
    steps: Count
    """Optimizer steps [steps]."""
    lr: Annotated[float, Field(gt=0, le=100)]
    """Peak learning rate of Adam on the gate logits [log-odds per step]."""
    warmup: Fraction
    """Share of the steps over which the learning rate rises [fraction]."""
    decay: Fraction
    """Share of the steps over which it falls to zero at the end [fraction]."""
    suppression: Suppression
    """Loss that removes the target's objects."""
    suppression_weight: Weight
    """Coefficient of suppression."""
    causal_shift: bool
    """Whether objects are read where they are predicted; false reads at the objects themselves, as
    the reference's losses do by mistake: for comparison only."""
    control_weight: Weight
    """Coefficient of the KL divergence on the control KG."""
    neighborhood_weight: Weight
    """Coefficient of the KL divergence on neighborhood facts."""
    text_weight: Weight
    """Coefficient of the KL divergence on the control text."""
    expression_weight: Weight
    """Coefficient of expression by the subnetwork alone; 0 leaves it out."""
    distinction_weight: Weight
    """Coefficient of the spread of the states over the target's subjects; 0 leaves it out."""
    distinction_batch: Annotated[int, Field(ge=2)]
    """Target statements per step, of one template family, whose spread is taken [statements]."""
    sparsity_weight_start: Weight
    """Coefficient of the sparsity term at first."""
    sparsity_weight_end: Weight
    """Coefficient of the sparsity term at the last step."""
    sparsity_ramp_start: Fraction
    """Share of the steps after which the coefficient moves [fraction]."""
    target_density: Fraction
    """Density that the coefficient is steered to; 0 = not steered [fraction]."""
    max_density: PositiveFraction
    """Largest share of open gates; those with the smallest logits are trimmed [fraction]."""
    target_batch: Count
    """Target statements per step [statements]."""
    control_batch: Count
    """Control statements per step [statements]."""
    neighborhood_batch: Count
    """Neighborhood statements per step, those of unseen entities among them [statements]."""
    unseen_share: Fraction
    """Share of them that are of unseen entities, where there are facts too [fraction]."""
    text_batch: Count
    """Text blocks per step [blocks]."""
    block_tokens: Tokens
    """Length of a text block [tokens]."""
    grad_accumulation: Count
    """Microbatches that a step's batch is cut into, to save memory."""
    activation_checkpointing: bool
    """Whether activations are recomputed in the backward pass, to save memory."""
    gate_memory: GateMemory
    """What is kept per gate, to save memory."""
    shards: Annotated[int, Field(ge=1, le=1024)]
    """Parts of every masked matrix, which several processes can divide among themselves."""
    precision: Precision
    """Of the matrix products; gates, losses and optimizer are float32."""
    padding: Padding
    """Whether a step's statements are padded to the widest on a CPU, or read by length."""
    head_vocabulary: HeadVocabulary
    """Tokens of the LM head that the losses compare."""
    matmul: Matmul
    """Library that computes float32 products on the CPU."""
    evaluate_every: Count
    """Steps between validations [steps]."""
    candidates: Candidates
    """Which validated masks may become the result."""
    checkpoint_every: Count
    """Steps between checkpoints for resuming [steps]."""
    max_control_ratio: Ratio
    """Largest validation PPL ratio on control facts that selection accepts."""
    max_text_ratio: Ratio
    """Largest validation PPL ratio on control text that selection accepts."""

    def __post_init__(self) -> None:
        """Refuse values that do not fit together (ValueError naming the key)."""
        pieces, batch = self.grad_accumulation, self.target_batch
        require(
            pieces <= batch, "train.grad_accumulation", pieces, f"at most target_batch, {batch}"
        )
        uniform = self.suppression is Suppression.UNIFORM
        plain = uniform and not (self.neighborhood_weight or self.expression_weight)
        allowed = "true, or suppression: uniform without neighborhood and expression"
        require(self.causal_shift or plain, "train.causal_shift", False, allowed)
        first, _, end = self.blocks.replace("-", ":").partition(":")
        ordered = not end or int(first) < int(end)
        require(ordered, "train.blocks", self.blocks, "upper_half, or first:end such as 2:4")
        per_weight = self.granularity in (Granularity.WEIGHT, Granularity.INPUT, Granularity.OUTPUT)
        plain = per_weight and not self.activation_checkpointing
        masks = not self.embeddings or (plain and self.head_vocabulary is HeadVocabulary.FULL)
        allowed = (
            "false, or granularity weight, input or output without activation_checkpointing and "
            "with head_vocabulary: full"
        )
        require(masks, "train.embeddings", self.embeddings, allowed)
        self._require_single_gradient()

    def _require_single_gradient(self) -> None:
        """Refuse pieces of gates where their gradient does not arrive as a whole, once a step."""
        single = (
            self.granularity is Granularity.WEIGHT
            and self.samples is Samples.SHARED
            and self.grad_accumulation == 1
            and not (self.embeddings or self.expression_weight or self.distinction_weight)
        )
        allowed = (
            "full, or granularity: weight, samples: shared, grad_accumulation: 1, no embeddings, "
            "expression or distinction"
        )
        memory = self.gate_memory
        full = memory is GateMemory.FULL
        require(single or full, "train.gate_memory", memory.value, allowed)
        allowed = "1, or gate_memory: redrawn or 8bit"
        require(self.shards == 1 or not full, "train.shards", self.shards, allowed)

    def block_range(self, total: int) -> range:
        """Return the masked blocks of a model.

        Args:
            total: Number of blocks of the model.

        Returns:
            The 0-based indices.

        Raises:
            ValueError: If the range reaches beyond the model.
        """
        return block_range(self.blocks, total, "train.blocks")
