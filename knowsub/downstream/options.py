"""What a user chooses about downstream finetuning: the section `finetune` of `params.yaml`."""

from dataclasses import dataclass
from enum import StrEnum


class QuestionSource(StrEnum):
    """Where the questions come from."""

    FACTS = "facts"
    COMMONSENSEQA = "commonsenseqa"
    FILES = "files"


class Distractors(StrEnum):
    """How the wrong choices of a question made from a fact are drawn."""

    FREQUENCY = "frequency"
    UNIFORM = "uniform"


class Adaptation(StrEnum):
    """What is trained on the questions."""

    HEAD = "head"
    LORA = "lora"
    FULL = "full"


class Readout(StrEnum):
    """What the multiple-choice head reads of a choice."""

    MATCH = "match"
    LAST = "last"


class RemovedWeights(StrEnum):
    """What becomes of the removed weights in finetuning."""

    HOLD = "hold"
    FREE = "free"


class TrainableBlocks(StrEnum):
    """Which blocks LoRA and full finetuning may change."""

    UPPER = "upper"
    ALL = "all"


@dataclass
class FinetuneOptions:
    """How a model without its critical subnetwork is finetuned and examined."""

    questions: QuestionSource
    """Where the questions come from."""
    question_folder: str
    """Folder of question files (`questions: files`, or CommonsenseQA already downloaded)."""
    target_questions: str
    """JSON file whose entries' `id` are the target questions; empty: tied by head and tail."""
    template_family: str
    """Template family whose prompts ask the questions made from facts."""
    choices: int
    """Choices per question made from a fact."""
    distractors: Distractors
    """How the wrong choices of a question made from a fact are drawn."""
    max_questions: int
    """Most questions taken of a training or test file, the first ones; 0 = all."""
    target_share: float
    """Share of the target questions that are trained on; the others are tested [fraction]."""
    validation_share: float
    """Share of the training questions kept for early stopping [fraction]."""
    adaptations: list[Adaptation]
    """What is trained, one run each."""
    readout: Readout
    """What the multiple-choice head reads."""
    removed_weights: RemovedWeights
    """Whether removed weights stay zero or may be learned again."""
    trainable_blocks: TrainableBlocks
    """Which blocks LoRA and full finetuning may change."""
    lora_rank: int
    """Rank of the LoRA update."""
    repeats: int
    """Runs per model and adaptation, differing in head, LoRA initialisation and order."""
    steps: int
    """Optimiser steps at most."""
    batch: int
    """Questions per step."""
    head_lr: float
    """Learning rate of the head."""
    lora_lr: float
    """Learning rate of the LoRA matrices."""
    full_lr: float
    """Learning rate of the model's weights in full finetuning."""
    evaluate_every: int
    """Steps between evaluations [steps]."""
    patience: int
    """Evaluations without improvement on validation after which a run stops."""
    resamples: int
    """Bootstrap resamples and permutations behind the intervals and p-values."""

    def __post_init__(self) -> None:
        """Refuse impossible values.

        Raises:
            ValueError: If a value is out of its range; the message names the key.
        """
        counts = (
            "lora_rank", "repeats", "steps", "batch", "evaluate_every", "patience",
        )  # fmt: skip
        for name in counts:
            self._require(name, getattr(self, name) >= 1, "an integer >= 1")
        for name in ("head_lr", "lora_lr", "full_lr"):
            self._require(name, 0 < getattr(self, name) <= 10, "above 0, at most 10")
        self._require("choices", 2 <= self.choices <= 26, "an integer from 2 to 26")
        self._require("max_questions", self.max_questions >= 0, "an integer >= 0")
        self._require("target_share", 0 <= self.target_share < 1, "at least 0, below 1")
        self._require("validation_share", 0 < self.validation_share < 1, "above 0 and below 1")
        self._require("resamples", self.resamples >= 100, "an integer >= 100")
        self._require(
            "template_family", bool(self.template_family.strip()), "the name of a template family"
        )
        unique = len(set(self.adaptations)) == len(self.adaptations) > 0
        self._require("adaptations", unique, f"some of {', '.join(Adaptation)}, each once")
        named = self.questions is not QuestionSource.FILES or bool(self.question_folder.strip())
        self._require("question_folder", named, "a folder, which `questions: files` needs")

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            value = getattr(self, name)
            raise ValueError(f"finetune.{name}: value {value!r} is not allowed; use {allowed}")
