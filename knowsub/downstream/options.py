"""Options of the stage `finetune`: the downstream task."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from knowsub.ranges import Count, Distinct, LearningRate, Limit, OpenFraction, Text, require


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
    """How a model without its critical subnetwork is finetuned and tested."""

    questions: QuestionSource
    """Where the questions come from."""
    question_folder: str
    """Folder of question files (`questions: files`, or CommonsenseQA already downloaded)."""
    target_questions: str
    """JSON file whose entries' `id` are the target questions; empty: by subject and object."""
    template_family: Text
    """Template family whose prompts ask the questions made from facts."""
    choices: Annotated[int, Field(ge=2, le=26)]
    """Choices per question made from a fact."""
    distractors: Distractors
    """How the wrong choices of a question made from a fact are drawn."""
    max_questions: Limit
    """Questions taken of a training or test file at most, the first ones; 0 = all."""
    target_share: Annotated[float, Field(ge=0, lt=1)]
    """Share of the target questions that are trained on; the others are tested [fraction]."""
    validation_share: OpenFraction
    """Share of the training questions kept for early stopping [fraction]."""
    adaptations: Annotated[list[Adaptation], Field(min_length=1), Distinct]
    """What is trained, one run each."""
    readout: Readout
    """What the multiple-choice head reads."""
    removed_weights: RemovedWeights
    """Whether removed weights stay zero or may be learned again."""
    trainable_blocks: TrainableBlocks
    """Which blocks LoRA and full finetuning may change."""
    lora_rank: Count
    """Rank of the LoRA update."""
    repeats: Count
    """Runs per model and adaptation, differing in head, LoRA initialization and order."""
    steps: Count
    """Optimizer steps at most [steps]."""
    batch: Count
    """Questions per step [questions]."""
    head_lr: LearningRate
    """Learning rate of the multiple-choice head."""
    lora_lr: LearningRate
    """Learning rate of the LoRA matrices."""
    full_lr: LearningRate
    """Learning rate of the model's weights in full finetuning."""
    evaluate_every: Count
    """Steps between evaluations [steps]."""
    patience: Count
    """Evaluations without improvement on validation after which a run stops."""
    resamples: Annotated[int, Field(ge=100)]
    """Bootstrap resamples and permutations behind the intervals and p-values."""

    def __post_init__(self) -> None:
        """Refuse values that do not fit together (ValueError)."""
        named = self.questions is not QuestionSource.FILES or bool(self.question_folder.strip())
        allowed = "a folder, which `questions: files` needs"
        require(named, "question_folder", self.question_folder, allowed)
