"""What a user chooses about mask training: the section `train` of `params.yaml`."""

from dataclasses import dataclass
from enum import StrEnum

from knowsub.architectures import ModuleType
from knowsub.masks.options import Estimator, Granularity


class Suppression(StrEnum):
    """What the remaining model is pushed to at the target's tail positions."""

    UNIFORM = "uniform"
    PRIOR = "prior"
    UNLIKELIHOOD = "unlikelihood"
    ZSCORE_LABEL = "zscore_label"
    ZSCORE_ALL = "zscore_all"


class Precision(StrEnum):
    """In what the matrix products of a step are computed."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Matmul(StrEnum):
    """What computes float32 matrix products on the CPU."""

    DEFAULT = "default"
    ONEDNN = "onednn"


@dataclass
class TrainOptions:
    """How a critical subnetwork is searched for."""

    granularity: Granularity
    """What one gate covers."""
    estimator: Estimator
    """How gates are sampled and differentiated."""
    blocks: str
    """Blocks that are masked: `upper_half`, or `first:end` with 0-based `first` and open `end`."""
    modules: list[ModuleType]
    """Kinds of matrices that are masked."""
    init_prob: float
    """Initial probability of an open gate [fraction]."""
    temperature: float
    """Temperature of the relaxation."""
    noise_final: float
    """Scale of the noise at the last step, from 1 [fraction]."""
    noise_decay_start: float
    """Share of the steps after which the scale of the noise falls [fraction]."""
    steps: int
    """Optimiser steps."""
    lr: float
    """Learning rate of Adam on the logits [log-odds per step]."""
    warmup: float
    """Share of the steps over which the learning rate rises [fraction]."""
    decay: float
    """Share of the steps over which it falls to zero at the end [fraction]."""
    suppression: Suppression
    """What the target's tails are pushed to."""
    suppression_weight: float
    """Coefficient of suppression."""
    causal_shift: bool
    """Whether tails are read where they are predicted; false reads at the tails themselves, as the
    reference's losses do by mistake: for comparison only."""
    control_weight: float
    """Coefficient of maintenance on the control KG."""
    neighborhood_weight: float
    """Coefficient of maintenance on facts that share words with the target's."""
    text_weight: float
    """Coefficient of maintenance on the control LM."""
    expression_weight: float
    """Coefficient of expression by the subnetwork alone; 0 leaves it out."""
    sparsity_weight_start: float
    """Coefficient of the sparsity term at first."""
    sparsity_weight_end: float
    """Coefficient of the sparsity term at the last step."""
    sparsity_ramp_start: float
    """Share of the steps after which the coefficient moves [fraction]."""
    target_density: float
    """Density that the coefficient is steered to; 0 = not steered [fraction]."""
    max_density: float
    """Largest share of the gates that may be open; smaller logits are trimmed [fraction]."""
    target_batch: int
    """Target statements per step."""
    control_batch: int
    """Control statements per step."""
    neighborhood_batch: int
    """Near statements per step."""
    unseen_share: float
    """Share of them that are of untold heads, where there are facts beside them [fraction]."""
    text_batch: int
    """Text blocks per step."""
    block_tokens: int
    """Length of a text block [tokens]."""
    grad_accumulation: int
    """Pieces that a step's batch is cut into, to save memory."""
    activation_checkpointing: bool
    """Whether activations are computed again on the way back, to save memory."""
    precision: Precision
    """Of the matrix products; gates, losses and optimiser are float32."""
    matmul: Matmul
    """What computes float32 products on the CPU."""
    evaluate_every: int
    """Steps between validations [steps]; `selection` says which of them are candidates."""
    checkpoint_every: int
    """Steps between checkpoints for resuming [steps]."""
    max_control_ratio: float
    """Largest validation PPL ratio on control facts that selection accepts."""
    max_text_ratio: float
    """Largest validation PPL ratio on control text that selection accepts."""

    def __post_init__(self) -> None:
        """Refuse impossible values.

        Raises:
            ValueError: If a value is out of its range; the message names the key.
        """
        shares = (
            "noise_final", "noise_decay_start", "warmup", "decay", "sparsity_ramp_start", "target_density",
            "unseen_share",
        )  # fmt: skip
        weights = (
            "suppression_weight", "control_weight", "neighborhood_weight",
            "text_weight", "expression_weight", "sparsity_weight_start", "sparsity_weight_end",
        )  # fmt: skip
        counts = (
            "steps", "target_batch", "control_batch", "neighborhood_batch", "text_batch", "grad_accumulation",
            "evaluate_every", "checkpoint_every",
        )  # fmt: skip
        for name in shares:
            self._require(name, 0 <= getattr(self, name) <= 1, "0 to 1")
        for name in weights:
            self._require(name, 0 <= getattr(self, name) < float("inf"), "a finite number >= 0")
        for name in counts:
            self._require(name, getattr(self, name) >= 1, "an integer >= 1")
        self._require(
            "grad_accumulation",
            self.grad_accumulation <= self.target_batch,
            "at most train.target_batch",
        )
        self._require_shift()
        self._require("init_prob", 0 < self.init_prob < 1, "above 0 and below 1")
        self._require("max_density", 0 < self.max_density <= 1, "above 0, at most 1")
        self._require("temperature", 0 < self.temperature <= 10, "above 0, at most 10")
        self._require("lr", 0 < self.lr <= 100, "above 0, at most 100")
        self._require("block_tokens", self.block_tokens >= 2, "an integer >= 2")
        self._require("max_control_ratio", self.max_control_ratio >= 1, "at least 1")
        self._require("max_text_ratio", self.max_text_ratio >= 1, "at least 1")
        self._require("modules", bool(self.modules), f"at least one of {', '.join(ModuleType)}")
        self._require("blocks", _is_range(self.blocks), "upper_half, or first:end such as 2:4")

    def _require_shift(self) -> None:
        plain = self.suppression is Suppression.UNIFORM and not (
            self.neighborhood_weight or self.expression_weight
        )
        allowed = "true, or suppression: uniform without neighborhood and expression"
        self._require("causal_shift", self.causal_shift or plain, allowed)

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            value = getattr(self, name)
            raise ValueError(f"train.{name}: value {value!r} is not allowed; use {allowed}")

    def block_range(self, total: int) -> range:
        """Return the masked blocks of a model.

        Args:
            total: Number of blocks of the model.

        Returns:
            The 0-based indices.

        Raises:
            ValueError: If the range reaches beyond the model.
        """
        if self.blocks == "upper_half":
            return range(total // 2, total)
        first, end = (int(number) for number in self.blocks.split(":"))
        if end > total:
            raise ValueError(f"train.blocks: {self.blocks} reaches beyond the model's {total}")
        return range(first, end)


def _is_range(text: str) -> bool:
    first, colon, end = text.partition(":")
    if text == "upper_half":
        return True
    return bool(colon) and first.isdecimal() and end.isdecimal() and int(first) < int(end)
