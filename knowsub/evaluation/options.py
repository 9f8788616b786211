"""Options of the stage `test`: which metrics are computed, and how much of each."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from knowsub.ranges import (
    Count,
    Distinct,
    Limit,
    OpenFraction,
    PositiveFraction,
    Seed,
    Tokens,
    require,
)


class RelearningData(StrEnum):
    """What is finetuned on while target facts that are not in it are tested."""

    TARGET = "target"
    CONTROL = "control"
    NEIGHBORHOOD = "neighborhood"
    TEXT = "text"


class RelearningMethod(StrEnum):
    """What finetuning changes."""

    FULL = "full"
    LORA = "lora"


@dataclass
class TestOptions:
    """Which groups of metrics are computed, and how much of each."""

    __test__ = False

    seed: Seed
    """Of random masks, distractors and finetuning order."""
    block_tokens: Tokens
    """Length of a text block [tokens]."""
    text_blocks: Limit
    """Text blocks per corpus at most, from its beginning; 0 = all [blocks]."""
    control_prompts: Limit
    """Prompts per control fact at most, lowest NLL first; 0 = all of the training families."""
    random_masks: Count
    """Random masks of as many weights, neurons, heads or matrices, behind `random_p` [masks]."""
    random_text_masks: Limit
    """How many of the random masks are also scored on text [masks]."""
    multiple_choice: bool
    """Choice against distractors, random objects, identifiability of the subject."""
    choice_families: Limit
    """Training families asked in it at most, lowest NLL first; 0 = all [families]."""
    forgetting: bool
    """Forgetting against the prior over objects."""
    generation_tokens: Limit
    """Tokens written freely after the best prompt of each fact; 0 = none is [tokens]."""
    paraphrase: bool
    """Unseen template families, worst-case extraction over all prompts."""
    specificity: bool
    """Divergence on held-out neighborhood and control facts."""
    full_ablation: bool
    """Metrics with all maskable weights removed."""
    logit_lens: bool
    """Projection of every block's last state."""
    relearning: bool
    """Finetuning on other target facts, in folds by subject."""
    relearning_curves: bool
    """Accuracy and NLL along longer finetuning, also on other data."""
    forget_quality: bool
    """The retain model, never taught the target: its answers, and its relearning beside others'."""
    connectivity: bool
    """Distances and loss barriers between original, remaining and retain model."""
    quantization: bool
    """Efficacy after rounding to few bits."""
    minimality: bool
    """The subnetwork alone, and removing more or less than it."""
    cross_target: bool
    """Damage to the facts of the other targets."""
    baselines: bool
    """The masks of other methods, at the same size."""
    baseline_sizes: bool
    """The masks of other methods at several sizes, for equal damage to the controls."""
    distractors: Count
    """Same-relation objects beside the true one in a choice."""
    reference_draws: Count
    """Other subjects asked per prompt, for the ignorance reference."""
    reference_subjects: Limit
    """Other subjects behind the prior over objects at most; 0 = all."""
    logit_lens_tokens: Count
    """Top tokens read off all blocks together, split evenly [tokens]."""
    relearning_folds: Annotated[int, Field(ge=2)]
    """Parts of the target facts in relearning, by subject."""
    relearning_steps: Count
    """AdamW steps per fold [steps]."""
    relearning_lr: OpenFraction
    """Learning rate of those steps."""
    relearning_checkpoints: Annotated[list[Count], Field(min_length=1), Distinct]
    """Steps after which the curves are read, in ascending order; step 0 is always read."""
    relearning_data: Annotated[list[RelearningData], Field(min_length=1), Distinct]
    """What the curves finetune on."""
    relearning_methods: Annotated[list[RelearningMethod], Field(min_length=1), Distinct]
    """What finetuning changes in the curves; the first one behind `excess_recovery`."""
    relearning_rates: Annotated[list[OpenFraction], Field(min_length=1), Distinct]
    """Learning rates of the curves; the first one behind `excess_recovery`."""
    quantization_bits: list[Annotated[int, Field(ge=2, le=16)]]
    """Word lengths of the rounding [bits]."""
    size_perturbations: list[PositiveFraction]
    """Shares of the mask added or taken at random [fraction]."""
    resamples: Count
    """Bootstrap resamples behind each interval."""
    confidence_level: OpenFraction
    """Confidence level of the intervals [fraction]."""

    def __post_init__(self) -> None:
        """Refuse values that do not fit together (ValueError)."""
        count = self.random_text_masks
        fits = count <= self.random_masks
        require(fits, "random_text_masks", count, f"at most random_masks, {self.random_masks}")
        steps = self.relearning_checkpoints
        require(steps == sorted(steps), "relearning_checkpoints", steps, "ascending steps")
