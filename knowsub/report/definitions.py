"""What the metrics mean that have no line of their own: their names are put together from words.

`heldout_original_median_rank` is the median rank of the held-out control facts under the original
model; the rules below read a name from its end, and give nothing for a name that they do not know.
"""

from __future__ import annotations

import re

SETS = {
    "target": "target facts, trained prompts",
    "paraphrase": "target facts, unseen prompts",
    "control": "control facts used in mask training",
    "heldout": "held-out control facts",
    "far": "held-out control facts",
    "neighborhood": "held-out neighborhood facts",
    "validation": "target facts, validation prompts",
    "text": "held-out text",
    "other": "text of another corpus",
}
MEASURES = {
    "ppl_ratio": "PPL, remaining over original model",
    "absolute_dnll": "mean absolute change of NLL [nats per object token]",
    "dnll": "mean change of NLL by the removal [nats per object token]",
    "nll": "NLL under the remaining model [nats per token]",
    "original_nll": "NLL under the original model [nats per token]",
    "accuracy": "share whose object is the top answer [fraction]",
    "original_accuracy": "the same share under the original model [fraction]",
    "generated": "share whose object is in what the model writes freely [fraction]",
    "original_generated": "the same share under the original model [fraction]",
    "median_rank": "median 0-based rank of the object",
    "original_median_rank": "median 0-based rank of the object under the original model",
    "kl": "KL divergence of the answers from the original model's [nats]",
    "agreement": "share with the original model's top answer [fraction]",
}
ADAPTATIONS = {
    "head": "choice head finetuned",
    "full": "all weights finetuned",
    "lora": "LoRA finetuned",
}
MODELS = {
    "original_": "original model",
    "random_": "as many random weights removed",
    "remaining_": "subnetwork removed",
    "retain_": "model never taught the target",
    "": "subnetwork removed",
}
QUESTIONS = {
    "target": "questions about the target",
    "neighborhood": "questions about its neighborhood",
    "other": "other questions",
}
DRAWS = {
    "uniform": "distractors drawn evenly",
    "frequency": "distractors drawn as often as they are objects",
}
STATES = {"before": "before finetuning", "after": "after finetuning on other target facts"}

Words = dict[str, dict[str, str]]
TABLES: Words = {
    "set": SETS, "measure": MEASURES, "adaptation": ADAPTATIONS, "model": MODELS,
    "questions": QUESTIONS, "draw": DRAWS, "state": STATES,
    "question": {"accuracy": "", "original": "original model", "reference": "asked about another "
                 "subject"},
    "change": {"grown": "random weights added to the mask", "shrunk": "random ones taken out"},
}  # fmt: skip
"""Kind of a word -> word -> what it stands for."""

RULES = (
    ("{set}_{measure}", "{set}: {measure}"),
    ("alone_{set}_{measure}", "the subnetwork alone is kept, other maskable weights removed; "
     "{set}: {measure}"),
    (r"int(?P<n>\d)_{set}_{measure}", "weights rounded to int{n}; {set}: {measure}"),
    (r"int(?P<n>\d)_original_accuracy", "weights of the original model rounded to int{n}; target "
     "facts whose object is the top answer [fraction]"),
    ("all_removed_{set}_{measure}", "every maskable weight removed; {set}: {measure}"),
    ("retain_{set}_{measure}", "model never taught the target; {set}: {measure}"),
    ("random_{set}_{measure}", "as many random weights removed; {set}: {measure}"),
    (r"{change}(?P<n>\d+)_{set}_{measure}", "{change}, {n} % of its size; {set}: {measure}"),
    ("{model}{adaptation}_{questions}_accuracy", "{questions} answered [fraction]; {model}, "
     "{adaptation}"),
    ("choice_{draw}_{question}", "multiple choice, {draw} [fraction] {question}"),
    ("choice_original", "multiple choice of the original model [fraction]"),
    ("relearning_{model}{state}", "top-1 accuracy on target facts not finetuned on [fraction]; "
     "{model}, {state}"),
    ("relearning_majority_baseline", "accuracy of answering the commonest object of the facts "
     "finetuned on [fraction]"),
    (r"(?P<name>\w*forgetting)_unknown", "facts left out of {name}, as the original model did not "
     "know them [facts]"),
    ("paraphrase_ratio", "change of NLL on unseen prompts over that on trained ones [ratio]"),
    ("extraction_top1", "target facts whose object is the top answer to any prompt [fraction]"),
    ("subject_identifiability_original", "that of the original model [fraction]"),
    ("logit_lens_hit", "target facts whose object the logit lens finds in any block [fraction]"),
    ("logit_lens_floor", "the same for objects of the relation that are not true [fraction]"),
    ("logit_lens_original", "the same under the original model [fraction]"),
    (r"{model}forget_quality(_nll)?_distance", "distance of that KS test; {model}"),
    ("{model}forget_quality_nll", "forget quality by NLL, p of the KS test; {model}"),
    (r"excess_recovery_(?P<n>\d+)", "excess recovery after {n} steps on other target facts"),
    (r"{model}excess_recovery_(?P<data>control|neighborhood|text)", "excess recovery by finetuning "
     "on {data} alone; {model}"),
    (r"excess_recovery_(?P<data>control|neighborhood|text)_(?P<n>\d+)", "excess recovery after {n} "
     "steps on {data} alone"),
    (r"{model}steps_to_half_(?P<data>\w+)", "steps to half by finetuning on {data} alone [steps]; "
     "{model}"),
    ("distance_original_retain", "Euclidean distance of the weights of the original model and the "
     "one never taught the target, over the norm of the original's"),
    ("barrier_original_retain", "most that control NLL exceeds its ends on the line between these "
     "two models [nats]"),
)  # fmt: skip
"""Names with words of `TABLES` in braces, as regular expressions -> the definition."""


def definition(name: str) -> str:
    """Return what a metric means, from the words of its name.

    Args:
        name: Name such as `heldout_original_nll`.

    Returns:
        One line with the unit; empty if the name follows no rule.
    """
    for pattern, meaning in RULES:
        expression = pattern
        for kind, words in TABLES.items():
            choices = "|".join(sorted(words, key=len, reverse=True))
            expression = expression.replace(f"{{{kind}}}", f"(?P<{kind}>{choices})")
        if match := re.fullmatch(expression, name):
            found = match.groupdict()
            said = {kind: TABLES.get(kind, {}).get(word, word) for kind, word in found.items()}
            return meaning.format(**said).strip()
    return ""
