"""The page's tables of structure, and of facts before and after the removal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from knowsub.report.collect import Analysis, MaskResult, Row

COLUMNS = (
    "mask", "facts", "prompts", "subject", "object", "prompt", "NLL before", "NLL after",
    "rank before", "rank after", "top 5 before", "top 5 after",
)  # fmt: skip
"""Columns of the table of facts; NLL in nats per object token, rank 0-based, means over prompts."""

SPLITS = {
    "target": "target",
    "neighborhood_train": "neighborhood",
    "neighborhood_heldout": "neighborhood",
    "control_train": "control",
    "control_validation": "control",
    "control_heldout": "control, held out",
}
"""Split of a fact -> its name on the page."""

ROLES = {"train": "trained", "validation": "validation", "test": "unseen"}
"""Role of a template family -> its name on the page."""


@dataclass(frozen=True)
class FactAnswers:
    """What two models answer about one fact, on the prompts of one role."""

    subject: str
    """Words of the subject."""
    object: str
    """Words of the object."""
    split: str
    """Split of the fact."""
    role: str
    """Role of the prompts."""
    original: Row
    """`nll`, `rank` and `top5` under the original model."""
    remaining: Row
    """The same under the remaining model."""


def paired_answers(rows: Sequence[Row]) -> list[FactAnswers]:
    """Return one value per fact and role about which both models were asked, in order."""
    views: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        key = (str(row["fact"]), str(row["split"]), str(row["role"]))
        views.setdefault(key, {})[str(row["view"])] = row
    pairs = ((key, by.get("original"), by.get("remaining")) for key, by in views.items())
    return [
        FactAnswers(original["subject"], original["object"], split, role, original, remaining)
        for (_, split, role), original, remaining in pairs
        if original and remaining
    ]


def fact_bar_values(rows: Sequence[Row]) -> list[tuple[str, float, float]]:
    """Return every target fact's words and its NLL before and after [nats], on trained prompts."""
    return [
        (f"{fact.subject} → {fact.object}", fact.original["nll"], fact.remaining["nll"])
        for fact in paired_answers(rows)
        if fact.split == "target" and fact.role == "train"
    ]


def table_rows(results: Sequence[MaskResult], control_facts: int) -> list[list[Any]]:
    """Return the page's rows in the order of `COLUMNS`; control facts per mask evenly spaced."""
    rows: list[list[Any]] = []
    for result in results:
        facts = paired_answers(result.facts)
        control = [fact for fact in facts if fact.split.startswith("control")]
        others = [fact for fact in facts if not fact.split.startswith("control")]
        shown = control[:: max(1, -(-len(control) // control_facts))] if control_facts else []
        rows += [_row(result.name, fact) for fact in others + shown]
    return rows


def _row(mask: str, fact: FactAnswers) -> list[Any]:
    before, after = fact.original, fact.remaining
    return [
        mask,
        SPLITS.get(fact.split, fact.split),
        ROLES.get(fact.role, fact.role),
        fact.subject,
        fact.object,
        str(before.get("prompt", "")),
        *(round(view["nll"], 3) for view in (before, after)),
        *(round(view["rank"], 1) for view in (before, after)),
        *(_top_answers(view) for view in (before, after)),
    ]


def _top_answers(view: Row) -> str:
    """Return the top answers as one text; pairs of answer and probability keep the answer."""
    answers = view.get("top5") or []
    words = (answer[0] if isinstance(answer, list) else answer for answer in answers)
    return ", ".join(str(word).strip() for word in words)


EXAMPLES = 3
"""Facts shown in words on the first screen."""


def examples(results: Sequence[MaskResult]) -> list[dict[str, str]]:
    """Return a few target facts in words: prompt, object, and the top answer before and after.

    Of the first masks of different targets, or of the only one's first facts; always those whose
    NLL after the removal is nearest to the median, so that they are neither the best nor the worst.
    """
    by_target: dict[str, list[FactAnswers]] = {}
    for result in results:
        facts = [fact for fact in paired_answers(result.facts) if fact.remaining.get("top5")]
        by_target.setdefault(result.target, sorted(facts, key=lambda f: float(f.remaining["nll"])))
    by_target = {target: facts for target, facts in by_target.items() if facts}
    each = -(-EXAMPLES // max(1, len(by_target)))
    shown = []
    for facts in by_target.values():
        start = max(0, (len(facts) - each) // 2)
        shown += [_in_words(fact) for fact in facts[start : start + each]]
    return shown[:EXAMPLES]


def _in_words(fact: FactAnswers) -> dict[str, str]:
    before, after = (_best(view) for view in (fact.original, fact.remaining))
    return {
        "prompt": str(fact.original.get("prompt") or fact.subject),
        "object": fact.object,
        "object_p": _percent(math.exp(-float(fact.remaining["nll"]))),
        "before": before[0],
        "before_p": before[1],
        "after": after[0],
        "after_p": after[1],
    }


def _best(view: Row) -> tuple[str, str]:
    """Return the top answer and its probability, as words."""
    answer = view["top5"][0]
    if not isinstance(answer, list):
        return str(answer).strip(), ""
    return str(answer[0]).strip(), _percent(float(answer[1]))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 else "below 0.1 %"


def filters(results: Sequence[MaskResult]) -> list[dict[str, Any]]:
    """Return the filters of the table of facts, with the choice that each begins with."""
    return [
        {"name": "mask", "plural": "masks", "column": 0, "first": results[0].name,
         "choices": [result.name for result in results]},
        {"name": "facts", "plural": "facts", "column": 1, "first": "target",
         "choices": list(dict.fromkeys(SPLITS.values()))},
        {"name": "prompts", "plural": "prompts", "column": 2, "first": "trained",
         "choices": list(ROLES.values())},
    ]  # fmt: skip


@dataclass(frozen=True)
class PageTable:
    """A table of text."""

    title: str
    """Its heading."""
    note: str
    """How to read it."""
    columns: Sequence[str]
    """Headings of the columns."""
    names: int
    """How many leading columns are names, aligned left."""
    rows: Sequence[Sequence[str]]
    """The cells."""


def structure_tables(analysis: Analysis) -> Iterator[PageTable]:
    """Yield the tables of structure that there are values for, in the order of the page."""
    structure, overlap = analysis.get("structure", {}), analysis.get("overlap", {})
    ablations = analysis.get("ablations", {})
    if structure.get("masks"):
        yield _placement_table(structure["masks"], structure["alpha"])
    if overlap.get("pairs"):
        yield _overlap_table(overlap)
    if ablations.get("parts"):
        yield _parts_table(ablations["parts"])
    if ablations.get("combined"):
        yield _combined_table(ablations["combined"])
    if ablations.get("resized"):
        yield _resized_table(ablations["resized"])


def _placement_table(masks: Sequence[Row], alpha: float) -> PageTable:
    columns = ["mask", "weights", "densest matrix", "densest head", "effect w, blocks",
               "effect w, module types", "effect w, heads", "top 1 % of outputs",
               "size of weights"]  # fmt: skip
    note = (
        "Densest: density over the mean of its grouping; * differs from uniform placement "
        f"(exact hypergeometric test, Holm's correction, family-wise error {alpha:g}). "
        "Effect w: Cohen's effect size of the chi-square test over the groups (0.1 small, 0.3 "
        "medium, 0.5 large). Top 1 % of outputs: share of a matrix's removed weights in its "
        "densest 1 % of output neurons, median over matrices; in brackets its expectation under "
        "uniform placement. Size of weights: mean quantile of the removed weights' magnitudes "
        "within their matrix (50 % = no relation), and the Kolmogorov-Smirnov distance between "
        "removed and other weights."
    )
    return PageTable("Placement", note, columns, 1, [_placement_row(mask, alpha) for mask in masks])


def _placement_row(mask: Row, alpha: float) -> list[str]:
    groupings, size = mask["groupings"], mask["magnitude"]
    outputs = [row for row in mask["neurons"] if row["direction"] == "output"]
    top = median(row["top_share"] for row in outputs)
    chance = median(row["top_share_uniform"] for row in outputs)
    return [
        f"{mask['target']}-{mask['seed']}",
        f"{mask['size']:,}",
        _densest(groupings, "matrix", alpha),
        _densest(groupings, "head", alpha),
        *(
            f"{groupings[name]['effect']:.2f}" if name in groupings else "–"
            for name in ("block", "module_type", "head")
        ),
        f"{top:.1%} ({chance:.1%})",
        f"{size['mean_quantile']:.0%}, KS {size['ks']:.2f}",
    ]


def _densest(groupings: Row, name: str, alpha: float) -> str:
    if name not in groupings:
        return "–"
    group = groupings[name]["groups"][0]
    star = "*" if group["p_holm"] < alpha else ""
    return f"{group['name'].replace('_', ' ')} ×{group['enrichment']:.2f}{star}"


def _overlap_table(overlap: Row) -> PageTable:
    rows = []
    for kind, mean in overlap["kinds"].items():
        pairs = [pair for pair in overlap["pairs"] if pair["kind"] == kind]
        p = max(pair["p_holm"] for pair in pairs)
        rows.append([
            kind, str(mean["pairs"]), f"{mean['jaccard']:.3f}",
            f"×{mean['jaccard_over_expected']:.1f}", f"×{mean['shared_over_expected']:.1f}",
            *(f"{_mean(pair[name] for pair in pairs):.2f}"
              for name in ("head_correlation", "neuron_correlation")),
            "< 1e-15" if p < 1e-15 else f"{p:.2g}",
        ])  # fmt: skip
    columns = ["pair of masks", "pairs", "Jaccard", "Jaccard over chance", "shared over chance",
               "head correlation", "neuron correlation", "largest p"]  # fmt: skip
    note = (
        "Chance: independent masks of the same densities per matrix. Head and neuron correlation: "
        "Spearman correlation of the densities. Largest p: exact one-sided test for more shared "
        "weights than chance, Holm's correction over all pairs."
    )
    return PageTable("Overlap", note, columns, 1, rows)


def _parts_table(rows: Sequence[Row]) -> PageTable:
    whole = {(row["target"], row["seed"]): row["weights"] for row in rows if row["name"] == "whole"}
    cells = []
    for name in dict.fromkeys(row["name"] for row in rows):
        parts = [row for row in rows if row["name"] == name]
        shares = [part["weights"] / max(whole[part["target"], part["seed"]], 1) for part in parts]
        cells.append([
            name.replace("_", " "), f"{_mean(shares):.1%}",
            *(_nats(_mean(part[metric] for part in parts)) for metric in DNLL),
        ])  # fmt: skip
    columns = ["removed part", "share of the mask", "target dNLL", "control dNLL"]
    note = (
        "dNLL: NLL above the original's [nats per object token] after removing only that part, "
        "mean over masks."
    )
    return PageTable("Parts removed on their own", note, columns, 1, cells)


def _combined_table(rows: Sequence[Row]) -> PageTable:
    cells = [
        [
            row["target"], row["name"], f"{row['weights']:,}", *(_nats(row[m]) for m in DNLL),
            _nats(row["text_dnll"]) if "text_dnll" in row else "–",
        ]
        for row in rows
    ]  # fmt: skip
    columns = ["target removed", "masks of its seeds combined", "weights", "target dNLL",
               "control dNLL", "text dNLL"]  # fmt: skip
    note = (
        "dNLL: NLL above the original's [nats per object token, of text per token]. Shared core: "
        "weights in the masks of all seeds; floral: in at least two; random part as large: as many "
        "weights of the first mask as the core has, drawn at random; random as ...: as many in "
        "each matrix as that mask has, drawn among all weights."
    )
    return PageTable("Seeds combined", note, columns, 2, cells)


def _resized_table(rows: Sequence[Row]) -> PageTable:
    cells = []
    for share, name in dict.fromkeys((row["share"], row["name"]) for row in rows):
        own = [row for row in rows if (row["share"], row["name"]) == (share, name)]
        texts = [row["text_dnll"] for row in own if "text_dnll" in row]
        cells.append([
            f"×{share:g}", name, *(_nats(_mean(row[m] for row in own)) for m in DNLL),
            _nats(_mean(texts)) if texts else "–",
        ])  # fmt: skip
    columns = ["size", "drawn", "target dNLL", "control dNLL", "text dNLL"]
    note = (
        "dNLL as above, mean over the first masks. Below ×1 random weights of the mask are "
        "kept, above it random others removed too: as many in each matrix, or across all of them; "
        "random: as many weights in each matrix, drawn among all."
    )
    return PageTable("Shrinking and expanding", note, columns, 2, cells)


DNLL = ("target_dnll", "control_dnll")


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def _nats(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}"  # + 0.0: no negative zero


MODELS = {"original": "original", "random": "random removed", "remaining": "critical removed"}
"""Name of a model in `results.json` -> its name on the page."""

QUESTIONS = {
    "target": "about the target",
    "neighborhood": "about its neighborhood",
    "other": "other questions",
}
"""Group of questions -> its name on the page."""


def downstream_table(results: Sequence[MaskResult]) -> PageTable | None:
    """Return accuracy by adaptation and model, mean over masks; None without finetuning."""
    scores = [row for result in results for row in result.finetune.get("scores", [])]
    if not scores:
        return None
    groups = [group for group in QUESTIONS if any(row["group"] == group for row in scores)]
    rows = []
    for adaptation, model in dict.fromkeys((row["adaptation"], row["model"]) for row in scores):
        chosen = [s for s in scores if (s["adaptation"], s["model"]) == (adaptation, model)]
        rows.append([
            "not finetuned" if adaptation == "none" else adaptation,
            MODELS.get(model, model),
            *(_accuracy(chosen, group, "accuracy") for group in groups),
            _accuracy(chosen, "target", "filtered"),
        ])  # fmt: skip
    chance = {f"{r.finetune['questions']['chance']:.0%}" for r in results if r.finetune}
    note = (
        "Accuracy on multiple-choice questions, mean over masks and repeats (chance "
        f"{', '.join(sorted(chance))}). Known before: target questions that the original model, "
        "finetuned the same way, answers correctly."
    )
    labels = [QUESTIONS[group] for group in groups]
    columns = ["what is trained", "model", *labels, "about the target, known before"]
    return PageTable("Finetuning", note, columns, 2, rows)


def _accuracy(rows: Sequence[Row], group: str, name: str) -> str:
    values = [row[name] for row in rows if row["group"] == group and row[name] is not None]
    return f"{_mean(values):.1%}" if values else "–"
