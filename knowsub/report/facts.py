"""Facts before and after the removal, as the page's table and the bar chart need them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from knowsub.report.collect import MaskResult, Row

COLUMNS = (
    "mask", "facts", "prompts", "head", "tail", "NLL before", "NLL after", "rank before",
    "rank after", "top 5 before", "top 5 after",
)  # fmt: skip
"""Columns of the table of facts; NLL in nats per tail token, rank 0-based, means over prompts."""

SPLITS = {
    "target": "target",
    "neighborhood_train": "near",
    "neighborhood_heldout": "near",
    "control_train": "control",
    "control_validation": "control",
    "control_heldout": "control, held out",
}
"""Split of a fact -> its name on the page."""

ROLES = {"train": "trained", "validation": "validation", "test": "unseen"}
"""Role of a template family -> its name on the page."""


@dataclass(frozen=True)
class FactAnswers:
    """One fact and prompt family under the models that were asked."""

    subject: str
    """Words of the head."""
    object: str
    """Words of the tail."""
    split: str
    """The part the fact plays."""
    role: str
    """Role of the prompts."""
    original: Row
    """`nll`, `rank`, `top5` under the original model."""
    remaining: Row
    """The same under the remaining model."""


def paired_answers(rows: Sequence[Row]) -> list[FactAnswers]:
    """Return rows per fact, role and view as one value per fact and role.

    Args:
        rows: Rows of `facts.jsonl`.

    Returns:
        Every fact and role that has both an original and a remaining view, in order.
    """
    found: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        key = (str(row["fact"]), str(row["split"]), str(row["role"]))
        found.setdefault(key, {})[str(row["view"])] = row
    return [
        _views(key, views["original"], views["remaining"])
        for key, views in found.items()
        if "original" in views and "remaining" in views
    ]


def _views(key: tuple[str, str, str], original: Row, remaining: Row) -> FactAnswers:
    _, split, role = key
    return FactAnswers(original["subject"], original["object"], split, role, original, remaining)


def fact_bar_values(rows: Sequence[Row]) -> list[tuple[str, float, float]]:
    """Return every target fact's NLL before and after, on training prompts.

    Args:
        rows: Rows of `facts.jsonl`.

    Returns:
        (`head → tail`, NLL under the original, NLL under the remaining model) [nats per token].
    """
    return [
        (f"{v.subject} → {v.object}", v.original["nll"], v.remaining["nll"])
        for v in paired_answers(rows)
        if v.split == "target" and v.role == "train"
    ]


def table_rows(items: Sequence[MaskResult], control_facts: int) -> list[list[Any]]:
    """Return the rows of the page's table of facts.

    Args:
        items: All masks.
        control_facts: Control facts per mask at most, taken evenly.

    Returns:
        One list per row, in the order of `COLUMNS`.
    """
    rows: list[list[Any]] = []
    for item in items:
        views = paired_answers(item.facts)
        control = [v for v in views if v.split.startswith("control")]
        keep = control[:: max(1, -(-len(control) // control_facts))] if control_facts else []
        chosen = [v for v in views if not v.split.startswith("control")] + keep
        rows += [_row(item.name, view) for view in chosen]
    return rows


def _row(mask: str, view: FactAnswers) -> list[Any]:
    before, after = view.original, view.remaining
    return [
        mask,
        SPLITS.get(view.split, view.split),
        ROLES.get(view.role, view.role),
        view.subject,
        view.object,
        round(before["nll"], 3),
        round(after["nll"], 3),
        round(before["rank"], 1),
        round(after["rank"], 1),
        _answers(before),
        _answers(after),
    ]


def _answers(view: Mapping[str, Any]) -> str:
    """Top answers as one text, each stripped; pairs of answer and probability keep the answer."""
    answers = view.get("top5") or []
    words = [str(one[0] if isinstance(one, list) else one).strip() for one in answers]
    return ", ".join(words)
