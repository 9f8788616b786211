"""What a user chooses about the evidence: the section `test` of `params.yaml`."""

from dataclasses import dataclass


@dataclass
class TestOptions:
    """Which groups of figures are computed, and how much of each."""

    __test__ = False

    seed: int
    """Of random masks, distractors and finetuning order."""
    block_tokens: int
    """Length of a text block [tokens]."""
    text_blocks: int
    """Text blocks per corpus at most, from its beginning; 0 = all."""
    control_prompts: int
    """Prompts per control fact at most, lowest NLL first; 0 = all of the training families."""
    random_masks: int
    """Random masks of the same size per site behind `random_p`."""
    random_text_masks: int
    """How many of the random masks are also scored on text."""
    multiple_choice: bool
    """Choice against distractors, random tails, head information."""
    forgetting: bool
    """Forgetting against the prior over tails."""
    paraphrase: bool
    """Unseen template families, worst-case extraction over all prompts."""
    specificity: bool
    """Divergence on near and far held-out facts."""
    full_ablation: bool
    """Figures with all maskable weights removed."""
    logit_lens: bool
    """Projection of every block's last state."""
    relearning: bool
    """Finetuning on other target facts, five folds by head."""
    quantization: bool
    """Efficacy after int8 and int4 rounding."""
    minimality: bool
    """The subnetwork alone, and removing more or less than it."""
    cross_target: bool
    """Damage to the facts of the other targets."""
    baselines: bool
    """The masks of other methods, at the same size."""
    baseline_sizes: bool
    """The masks of other methods at several sizes, for equal damage to the controls."""
    distractors: int
    """Same-relation tails beside the true one in a choice."""
    reference_draws: int
    """Other heads asked per prompt, for the ignorance reference."""
    reference_subjects: int
    """Other heads behind the prior over tails at most; 0 = all."""
    logit_lens_tokens: int
    """Tokens that may be read off all blocks together, split evenly."""
    relearning_folds: int
    """Parts of the target facts in relearning, by head."""
    relearning_steps: int
    """AdamW steps per fold."""
    relearning_lr: float
    """Learning rate of those steps."""
    quantization_bits: list[int]
    """Word lengths of the rounding [bits]."""
    size_perturbations: list[float]
    """Shares of the mask added or taken at random [fraction]."""
    resamples: int
    """Bootstrap resamples behind each interval."""
    confidence_level: float
    """Confidence level of the intervals [fraction]."""

    def __post_init__(self) -> None:
        """Refuse impossible values.

        Raises:
            ValueError: If a value is out of its range; the message names the key.
        """
        from_zero = (
            "seed",
            "text_blocks",
            "control_prompts",
            "random_text_masks",
            "reference_subjects",
        )
        from_one = (
            "random_masks",
            "distractors",
            "reference_draws",
            "logit_lens_tokens",
            "resamples",
        )
        for name in from_zero:
            self._require(name, getattr(self, name) >= 0, "an integer >= 0")
        for name in (*from_one, "relearning_steps"):
            self._require(name, getattr(self, name) >= 1, "an integer >= 1")
        most = self.random_text_masks <= self.random_masks
        self._require("random_text_masks", most, "at most random_masks")
        self._require("block_tokens", self.block_tokens >= 2, "an integer >= 2")
        self._require("relearning_folds", self.relearning_folds >= 2, "an integer >= 2")
        self._require("relearning_lr", 0 < self.relearning_lr < 1, "above 0 and below 1")
        self._require("confidence_level", 0 < self.confidence_level < 1, "above 0 and below 1")
        self._require(
            "quantization_bits",
            all(2 <= bits <= 16 for bits in self.quantization_bits),
            "integers from 2 to 16",
        )
        shares = all(0 < share <= 1 for share in self.size_perturbations)
        self._require("size_perturbations", shares, "fractions above 0 and at most 1")

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            value = getattr(self, name)
            raise ValueError(f"test.{name}: value {value!r} is not allowed; use {allowed}")
