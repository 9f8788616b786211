"""The figures of the evidence: name, meaning, which way is better, how it is printed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Better(StrEnum):
    """Which way a figure is better."""

    UP = "↑"
    DOWN = "↓"
    ONE = "→ 1"
    REFERENCE = "→ ref."
    NONE = ""


@dataclass(frozen=True)
class Entry:
    """One figure of the evidence."""

    name: str
    """Its name in `summary.json`."""
    group: str
    """Group it is printed under."""
    label: str
    """Its name on the page."""
    better: Better
    """Which way is better."""
    meaning: str
    """One line: what it is, with its unit."""


_UP, _DOWN, _ONE, _REF, _NONE = Better

HEADLINE = (
    Entry("sparsity", "size", "sparsity", _UP,
          "maskable weights outside the critical subnetwork [fraction]"),
    Entry("target_ppl_ratio", "efficacy", "target", _UP,
          "target PPL, remaining over original model, training prompts"),
    Entry("paraphrase_ppl_ratio", "generalisation", "unseen prompts", _UP,
          "the same on template families that no mask has seen"),
    Entry("control_ppl_ratio", "specificity", "control, trained", _DOWN,
          "PPL ratio on control facts used in mask training"),
    Entry("heldout_ppl_ratio", "specificity", "control, held out", _DOWN,
          "PPL ratio on control facts used nowhere"),
    Entry("near_ppl_ratio", "specificity", "near facts", _ONE,
          "PPL ratio on facts outside the target that share a tail or head word with it"),
    Entry("text_vs_random", "utility", "text vs random's", _DOWN,
          "held-out text PPL, critical removed over as many random weights removed"),
    Entry("choice_accuracy", "efficacy", "choice", _REF,
          "true tail against distractors of the same relation [fraction]"),
    Entry("choice_reference", "efficacy", "choice, ignorance", _NONE,
          "what ignorance looks like: the original asked about another head [fraction]"),
    Entry("random_target_ppl_ratio", "validity", "random: target", _DOWN,
          "target PPL ratio after removing as many random weights per site"),
    Entry("all_removed_target_ppl_ratio", "validity", "all removed: target", _UP,
          "target PPL ratio after removing all maskable weights; near 1: the facts live elsewhere"),
)  # fmt: skip
"""The columns of the results table, in order."""

EVIDENCE = (
    Entry("removed_share", "size", "removed share", _DOWN,
          "removed weights over all parameters of the model [fraction]"),
    Entry("forgetting", "efficacy", "forgetting", _UP,
          "way from the original's NLL to the prior over tails, clipped to 0..1; saturates early"),
    Entry("target_median_rank", "efficacy", "median rank", _REF,
          "0-based vocabulary rank of the true tail under the remaining model"),
    Entry("random_tail_rank", "efficacy", "rank of a random tail", _NONE,
          "the reference of the median rank: another tail of the same relation"),
    Entry("target_accuracy", "efficacy", "accuracy", _DOWN,
          "target facts whose tail is the remaining model's top answer [fraction]"),
    Entry("head_information", "efficacy", "head information", _REF,
          "macro accuracy of telling the target's tails apart by head [fraction]"),
    Entry("head_information_chance", "efficacy", "head information, chance", _NONE,
          "1 over the number of the target's tails: what no information gives [fraction]"),
    Entry("paraphrase_forgetting", "generalisation", "forgetting, unseen prompts", _UP,
          "forgetting on unseen template families"),
    Entry("extraction_top10", "generalisation", "worst-case extraction", _DOWN,
          "target facts whose tail is in the top 10 of any prompt form [fraction]"),
    Entry("near_accuracy", "specificity", "near accuracy", _UP,
          "near facts whose tail is still the top answer [fraction]"),
    Entry("diagonal_dominance", "specificity", "diagonal dominance", _UP,
          "damage to the own target over the mean damage to other targets [ratio]"),
    Entry("text_ppl_ratio", "utility", "text", _ONE,
          "held-out text PPL, remaining over original model"),
    Entry("random_text_ppl_ratio", "utility", "text, random removal", _NONE,
          "the same after removing as many random weights, mean over random masks"),
    Entry("relearning_recovery", "relearning", "recovery", _DOWN,
          "target regained by finetuning on other target facts [fraction of the loss]"),
    Entry("int8_forgetting", "precision", "forgetting, int8", _UP, "after int8 rounding"),
    Entry("int4_forgetting", "precision", "forgetting, int4", _UP, "after int4 rounding"),
    Entry("random_p", "validity", "p against random", _DOWN,
          "share of random masks of the same size that do as much, (1 + k) / (1 + N)"),
    Entry("head_target_accuracy", "downstream", "questions on the target", _DOWN,
          "multiple choice with a finetuned head, critical removed [fraction]"),
    Entry("head_other_accuracy", "downstream", "other questions", _UP,
          "the same on questions that do not concern the target [fraction]"),
    Entry("random_head_target_accuracy", "downstream", "target questions, random removal", _NONE,
          "the reference: as many random weights removed [fraction]"),
)  # fmt: skip
"""The other figures, in order of print."""

METHODS = (
    Entry("target_dnll_at_equal_control", "methods", "target, equal control damage", _UP,
          "target NLL lost at the size that costs the controls as much as the trained mask [nats]"),
)  # fmt: skip
"""Figures of other methods alone."""

ENTRIES = {entry.name: entry for entry in (*HEADLINE, *EVIDENCE, *METHODS)}
"""Name -> figure."""

MEANS = (
    "sparsity", "target_ppl_ratio", "paraphrase_ppl_ratio", "control_ppl_ratio",
    "heldout_ppl_ratio", "near_ppl_ratio", "text_ppl_ratio", "forgetting", "choice_accuracy",
    "extraction_top10", "relearning_recovery", "head_target_accuracy",
)  # fmt: skip
"""The dozen figures that experiments are compared by, in `dvc exp show` and MLflow."""

DERIVED = frozenset({"text_vs_random"})
"""Figures computed from others for the tables, not part of `summary.json`."""


def printed(name: str, value: float | None) -> str:
    """Return a figure as it is printed: enough digits to compare, no more.

    Args:
        name: Name of the figure.
        value: Its value, or None.

    Returns:
        Text such as `98.06 %`, `1,770` or `1.012`; a dash for None.
    """
    if value is None:
        return "–"
    if name in ("sparsity", "removed_share"):
        return f"{100 * value:.2f} %"
    size = abs(value)
    if size >= 100_000:
        return f"{value:.1e}".replace("e+0", "e").replace("e+", "e")
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if 0 < size < 0.001:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.3f}"
