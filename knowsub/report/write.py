"""The report as files: the same inputs give the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from knowsub.analysis.options import ReportOptions
from knowsub.plots.style import write_png
from knowsub.report.collect import Analysis, Item
from knowsub.report.page import Origin, render
from knowsub.report.pictures import pictures
from knowsub.report.summary import Figures, summarise
from knowsub.report.tables import figures_csv, results_table


def write_report(
    out: Path,
    items: Sequence[Item],
    analysis: Analysis,
    options: ReportOptions,
    origin: Origin,
    others: Mapping[str, Sequence[Figures]],
) -> list[Path]:
    """Write the summary, the tables, the pictures and the page.

    Args:
        out: Folder to write to; it is made.
        items: All masks, at least one.
        analysis: What the stage `analyze` wrote.
        options: How the report is written.
        origin: Where the results come from.
        others: Figures of other runs' masks.

    Returns:
        The files written: `summary.json`, `results.md`, `figures.csv`, `figures/*.png` and
        `report.html`.

    Raises:
        OSError: If a file cannot be written.
    """
    (out / "figures").mkdir(parents=True, exist_ok=True)
    drawn = list(pictures(items, analysis))
    summary = json.dumps(summarise(items), indent=1, allow_nan=False)
    texts = {
        "summary.json": summary + "\n",
        "results.md": results_table(items, options.bars),
        "figures.csv": figures_csv(items),
        "report.html": render(items, analysis, drawn, options, origin, others),
    }
    written = []
    for picture in drawn:
        written.append(out / "figures" / f"{picture.name}.png")
        write_png(picture.figure, written[-1], options.dpi)
    for name, text in texts.items():
        written.append(out / name)
        written[-1].write_text(text, encoding="utf-8", newline="\n")
    return written
