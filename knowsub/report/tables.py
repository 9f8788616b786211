"""The results as Markdown for the README, and every table as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from knowsub.report.catalogue import ENTRIES, printed
from knowsub.report.collect import Item
from knowsub.report.summary import (
    Figures,
    headline_names,
    mask_figures,
    median_figures,
    meets,
    worst_figures,
)

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
"""The lines of the README between which the results table stands."""

COMMAND = "make repro"
"""The command that makes the results."""


def results_table(items: Sequence[Item], bars: Mapping[str, str]) -> str:
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
    labels = ["target removed", "seed", *(ENTRIES[name].label for name in names)]
    lines = [_line(labels), _line([":---", "---:", *["---:"] * len(names)])]
    for item, figures in zip(items, rows, strict=True):
        lines.append(_line([f"`{item.target}`", str(item.seed), *_cells(names, figures, bars)]))
    for label, figures in (
        ("**median**", median_figures(rows)),
        ("**worst**", worst_figures(rows)),
    ):
        lines.append(_line([label, "", *_cells(names, figures, bars)]))
    asked = [f"{ENTRIES[name].label} {bars[name]}" for name in names if name in bars]
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


def figures_csv(items: Sequence[Item]) -> str:
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
        missed = name in figures and meets(figures[name], bars.get(name)) is False
        cells.append(f"**{text} ✗**" if missed else text)
    return cells


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
