"""The values of the page's tables, ready to be printed, and the README's table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from knowsub.hypotheses import holm
from knowsub.report.collect import MaskResult, Row
from knowsub.report.facts import ROLES, SPLITS
from knowsub.report.metrics import (
    EVIDENCE,
    METRIC_SPECS,
    Figures,
    headline_names,
    mask_figures,
    mean_figures,
    median_figures,
    meets_threshold,
    missed_thresholds,
    printed,
    summarise,
    worst_figures,
)
from knowsub.report.structure_tables import PageTable

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
"""The lines of the README between which the results table stands."""

COMMAND = "make repro"
"""The command that makes the results."""


def results_table(items: Sequence[MaskResult], bars: Mapping[str, str]) -> str:
    """Return the results table in Markdown.

    Args:
        items: All masks, at least one.
        bars: Figure -> bar.

    Returns:
        One row per mask, the median and the worst of every column; a figure that misses its bar
        is bold and marked. Nothing in it depends on when it was made.
    """
    rows = [mask_figures(item) for item in items]
    names = headline_names(rows)
    labels = ["target removed", "seed", *(METRIC_SPECS[name].label for name in names)]
    lines = [_line(labels), _line([":---", "---:", *["---:"] * len(names)])]
    for item, figures in zip(items, rows, strict=True):
        lines.append(_line([f"`{item.target}`", str(item.seed), *_cells(names, figures, bars)]))
    for label, figures in (
        ("**median**", median_figures(rows)),
        ("**worst**", worst_figures(rows)),
    ):
        lines.append(_line([label, "", *_cells(names, figures, bars)]))
    asked = [f"{METRIC_SPECS[name].label} {bars[name]}" for name in names if name in bars]
    note = f"Written by `{COMMAND}`. Ratios of PPL over the original model's, unless said."
    if asked:
        note += f" Asked: {', '.join(asked)}; **bold ✗** = missed."
    return "\n".join([*lines, "", note]) + "\n"


def with_results(readme: str, table: str) -> str | None:
    """Return a README with its results table replaced.

    Args:
        readme: The text.
        table: The table, as `results_table` returns it.

    Returns:
        The new text, or None if the README has no pair of markers.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        return None
    return f"{before}{BEGIN}\n{table}{END}{after}"


def figures_csv(items: Sequence[MaskResult]) -> str:
    """Return all catalogued figures of all masks and of the other methods as CSV.

    Args:
        items: All masks.

    Returns:
        Columns target, seed, method, figure, value, low, high (of the confidence interval).
    """
    rows: list[list[Any]] = []
    for item in items:
        for name, value in mask_figures(item).items():
            low, high = item.intervals.get(name, ("", ""))
            rows.append([item.target, item.seed, "trained", name, value, low, high])
        for method, figures in item.methods.items():
            for name, value in figures.items():
                rows.append([item.target, item.seed, method, name, value, "", ""])
    return as_csv(["target", "seed", "method", "figure", "value", "low", "high"], rows)


def as_csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return rows as CSV with a header line, lines ended by a newline."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


def write_readme(path: Path, table: str) -> bool:
    """Put the results table into a README that asks for it.

    Args:
        path: The README; nothing happens if there is none, or it lacks the markers.
        table: The table.

    Returns:
        Whether the file holds the table now. It is written only if it changes.
    """
    if not path.is_file():
        return False
    old = path.read_text(encoding="utf-8")
    new = with_results(old, table)
    if new is not None and new != old:
        path.write_text(new, encoding="utf-8")
    return new is not None


def _cells(names: Sequence[str], figures: Figures, bars: Mapping[str, str]) -> list[str]:
    cells = []
    for name in names:
        text = printed(name, figures.get(name))
        missed = name in figures and meets_threshold(figures[name], bars.get(name)) is False
        cells.append(f"**{text} ✗**" if missed else text)
    return cells


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def cards(items: Sequence[MaskResult], bars: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the figures at the top of the page.

    Args:
        items: All masks.
        bars: Figure -> bar.

    Returns:
        `label`, `value` and `mood` (good, bad or empty) of each.
    """
    middle = median_figures([mask_figures(item) for item in items])
    cards = [
        _card(f"{METRIC_SPECS[name].label} PPL ratio, median" if "ppl" in name else f"{name}, median",
              printed(name, middle[name]), meets_threshold(middle[name], bars.get(name)))
        for name in ("sparsity", "target_ppl_ratio", "paraphrase_ppl_ratio", "heldout_ppl_ratio")
        if name in middle
    ]  # fmt: skip
    if bars:
        reached = sum(not missed_thresholds(item, bars) for item in items)
        text = f"{reached} of {len(items)}"
        cards.append(_card("masks reach every bar", text, reached == len(items)))
    return cards


def _card(label: str, value: str, good: bool | None) -> dict[str, str]:
    mood = {True: "good", False: "bad", None: ""}[good]
    return {"label": label, "value": value, "mood": mood}


def headline(items: Sequence[MaskResult], bars: Mapping[str, str]) -> dict[str, Any]:
    """Return the results table.

    Args:
        items: All masks.
        bars: Figure -> bar.

    Returns:
        `columns` and `rows`, the median and the worst of each column last.
    """
    figures = [mask_figures(item) for item in items]
    names = headline_names(figures)
    rows: list[dict[str, Any]] = [
        {"target": item.target, "seed": str(item.seed), "total": False,
         "cells": _context_cells(names, row, bars, item.intervals)}
        for item, row in zip(items, figures, strict=True)
    ]  # fmt: skip
    for label, row in (("median", median_figures(figures)), ("worst", worst_figures(figures))):
        cells = _context_cells(names, row, bars, {})
        rows.append({"target": label, "seed": "", "total": True, "cells": cells})
    columns = [
        {"label": METRIC_SPECS[n].label, "meaning": METRIC_SPECS[n].meaning, "bar": bars.get(n, "")}
        for n in names
    ]
    return {"columns": columns, "rows": rows}


def _context_cells(
    names: Sequence[str],
    figures: Figures,
    bars: Mapping[str, str],
    intervals: Mapping[str, Sequence[float]],
) -> list[dict[str, Any]]:
    return [
        {
            "text": printed(name, figures.get(name)),
            "missed": name in figures and meets_threshold(figures[name], bars.get(name)) is False,
            "interval": _interval(name, intervals.get(name)),
        }
        for name in names
    ]


def _interval(name: str, ends: Sequence[float] | None) -> str:
    return "" if ends is None else " to ".join(printed(name, end) for end in ends)


def evidence(items: Sequence[MaskResult], bars: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the table of the other figures.

    Args:
        items: All masks.
        bars: Figure -> bar.

    Returns:
        Groups of rows, one cell per mask.
    """
    figures = [mask_figures(item) for item in items]
    middle = median_figures(figures)
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in EVIDENCE:
        if entry.name in middle:
            cells = [
                _context_cells([entry.name], row, bars, item.intervals)[0]
                for item, row in zip(items, figures, strict=True)
            ]
            told = {"label": entry.label, "meaning": entry.meaning, "better": str(entry.better)}
            told["bar"] = bars.get(entry.name, "")
            shown = {"median": printed(entry.name, middle[entry.name]), "cells": cells}
            groups.setdefault(entry.group, []).append(told | shown)
    return [{"name": name, "rows": rows} for name, rows in groups.items()]


def further(items: Sequence[MaskResult]) -> list[list[str]]:
    """Return the figures that the catalogue does not explain: name, median, least and greatest.

    Args:
        items: All masks.

    Returns:
        One row per figure, in alphabetical order.
    """
    names = sorted({name for item in items for name in item.metrics} - METRIC_SPECS.keys())
    rows = []
    for name in names:
        values = [float(item.metrics[name]) for item in items if name in item.metrics]
        cells = [printed(name, value) for value in (median(values), min(values), max(values))]
        rows.append([name.replace("_", " "), *cells])
    return rows


def filters(items: Sequence[MaskResult]) -> list[dict[str, Any]]:
    """Return the choices by which the table of facts is filtered.

    Args:
        items: All masks.

    Returns:
        `name`, `plural`, `column`, `first` choice and `choices` of each.
    """
    return [
        {"name": "mask", "plural": "masks", "column": 0, "first": items[0].name,
         "choices": [item.name for item in items]},
        {"name": "facts", "plural": "facts", "column": 1, "first": "target",
         "choices": list(dict.fromkeys(SPLITS.values()))},
        {"name": "prompts", "plural": "prompts", "column": 2, "first": "trained",
         "choices": list(ROLES.values())},
    ]  # fmt: skip


TRAINED = "trained mask"
"""Name of the trained masks in the table of methods."""

METHOD_FIGURES = (
    "target_ppl_ratio", "paraphrase_ppl_ratio", "control_ppl_ratio", "heldout_ppl_ratio",
    "neighborhood_ppl_ratio", "text_ppl_ratio", "choice_accuracy", "target_dnll_at_equal_control",
)  # fmt: skip
"""Figures by which methods are compared on the page."""


def baseline_table(items: Sequence[MaskResult]) -> dict[str, Any] | None:
    """Return the table of the other methods beside the trained masks.

    Args:
        items: All masks.

    Returns:
        `columns` and `rows` of means over masks; None if no method was tested.
    """
    baselines = {row["method"]: row for row in summarise(items)["baselines"]}
    if not baselines:
        return None
    rows = {TRAINED: mean_figures([mask_figures(item) for item in items])} | baselines
    names = [n for n in METHOD_FIGURES if any(n in row for row in baselines.values())]
    leads = _leads(items)
    columns = [{"label": METRIC_SPECS[n].label, "meaning": METRIC_SPECS[n].meaning} for n in names]
    columns.append({"label": "trained leads by", "meaning": "target NLL, Hodges-Lehmann, median"})
    columns.append({"label": "largest p", "meaning": "Wilcoxon over facts, Holm over masks"})
    return {
        "columns": columns,
        "rows": [
            {"name": name.replace("_", " "), "total": name == TRAINED,
             "cells": [*(printed(n, row.get(n)) for n in names), *leads.get(name, ("–", "–"))]}
            for name, row in rows.items()
        ],
    }  # fmt: skip


def _leads(items: Sequence[MaskResult]) -> dict[str, tuple[str, str]]:
    """Method -> the trained masks' lead on the target and the largest p, Holm over masks."""
    found = {}
    for method in dict.fromkeys(name for item in items for name in item.against):
        own = [item.against[method] for item in items if method in item.against]
        effect = median(row["effect"] for row in own)
        largest = max(holm([row["pvalue"] for row in own]))
        found[method] = (f"{effect:.2f} nats", f"{largest:.2g}")
    return found


MODELS = {"original": "original", "random": "random removed", "remaining": "critical removed"}
"""Name of a model in `results.json` -> its name on the page."""

GROUPS = {"target": "on the target", "near": "near it", "other": "other"}
"""Group of questions -> its name on the page."""


def downstream_table(items: Sequence[MaskResult]) -> PageTable | None:
    """Return accuracy by adaptation and model, mean over masks.

    Args:
        items: All masks.

    Returns:
        The table; None without results.
    """
    scores = [row for item in items for row in item.finetune.get("scores", [])]
    if not scores:
        return None
    groups = [group for group in GROUPS if any(row["group"] == group for row in scores)]
    kinds = dict.fromkeys((row["adaptation"], row["model"]) for row in scores)
    rows = []
    for adaptation, model in kinds:
        own = [r for r in scores if (r["adaptation"], r["model"]) == (adaptation, model)]
        label = "not finetuned" if adaptation == "none" else adaptation
        cells = [_mean(own, group, "accuracy") for group in groups]
        rows.append([label, MODELS.get(model, model), *cells, _mean(own, "target", "filtered")])
    chance = {f"{item.finetune['questions']['chance']:.0%}" for item in items if item.finetune}
    note = (
        "Multiple-choice questions answered rightly, mean over masks and repeats (chance "
        f"{', '.join(sorted(chance))}). Known before: target questions that the original model, "
        "finetuned the same way, gets right."
    )
    columns = ["trained", "model", *(GROUPS[group] for group in groups), "target, known before"]
    return PageTable("Finetuning", note, columns, 2, rows)


def _mean(rows: Sequence[Row], group: str, figure: str) -> str:
    values = [r[figure] for r in rows if r["group"] == group and r[figure] is not None]
    return f"{sum(values) / len(values):.1%}" if values else "–"
