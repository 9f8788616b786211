"""Facts before and after the removal: the page's table with its filters, and the bar chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from knowsub.report.collect import MaskResult, Row

COLUMNS = (
    "mask", "facts", "prompts", "subject", "object", "NLL before", "NLL after", "rank before",
    "rank after", "top 5 before", "top 5 after",
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
        *(round(view["nll"], 3) for view in (before, after)),
        *(round(view["rank"], 1) for view in (before, after)),
        *(_top_answers(view) for view in (before, after)),
    ]


def _top_answers(view: Row) -> str:
    """Return the top answers as one text; pairs of answer and probability keep the answer."""
    answers = view.get("top5") or []
    words = (answer[0] if isinstance(answer, list) else answer for answer in answers)
    return ", ".join(str(word).strip() for word in words)


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
