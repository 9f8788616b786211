"""The report as files: one self-contained HTML page, tables and pictures."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from knowsub.report.options import ReportOptions
from knowsub.report import tables as context
from knowsub.report.collect import Analysis, MaskResult
from knowsub.report.compared_runs import compared_runs
from knowsub.report.facts import COLUMNS, table_rows
from knowsub.report.metrics import Figures, mask_figures, summarise
from knowsub.report.pictures import Picture, pictures
from knowsub.report.plots import svg, write_png
from knowsub.report.structure_tables import structure_tables
from knowsub.report.tables import (
    COMMAND,
    baseline_table,
    downstream_table,
    figures_csv,
    results_table,
)


@dataclass(frozen=True)
class Provenance:
    """What the page says about where it comes from."""

    model: str
    """Name of the model."""
    fingerprint: str
    """Fingerprint of its weights."""
    parameters: str
    """The text of `params.yaml`."""
    commit: str
    """Commit of the code."""
    versions: Mapping[str, str]
    """Software -> version."""
    level: float
    """Confidence level of the intervals [fraction]."""


def render(
    items: Sequence[MaskResult],
    analysis: Analysis,
    drawn: Sequence[Picture],
    options: ReportOptions,
    origin: Provenance,
    others: Mapping[str, Sequence[Figures]],
) -> str:
    """Return the page.

    Args:
        items: All masks, at least one.
        analysis: What the stage `analyze` wrote.
        drawn: The pictures.
        options: How the report is written.
        origin: Where the results come from.
        others: Figures of other runs' masks, shown beside this one's.

    Returns:
        HTML that fetches nothing; the same values give the same text.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    folder = files("knowsub") / "templates"
    facts = table_rows(items, options.max_control_facts)
    return environment.from_string(_read(folder, "report.html.j2")).render(
        title=options.title,
        css=Markup(_read(folder, "style.css")),
        script=Markup(_read(folder, "table.js")),
        masks=[(item.target, f"seed {item.seed}") for item in items],
        cards=context.cards(items, options.thresholds),
        bars=options.thresholds,
        headline=context.headline(items, options.thresholds),
        evidence=context.evidence(items, options.thresholds),
        intervals=any(item.intervals for item in items),
        skipped=[f"{i.name}: {name}: {why}" for i in items for name, why in i.skipped.items()],
        further=context.further(items),
        methods=baseline_table(items),
        others=compared_runs([mask_figures(item) for item in items], others, options.thresholds),
        pictures=[_embedded(picture) for picture in drawn],
        places=list(structure_tables(analysis)),
        downstream=downstream_table(items),
        facts=Markup(_script_json(facts)) if facts else "",
        fact_columns=COLUMNS,
        picks=context.filters(items),
        control_facts=options.max_control_facts,
        command=COMMAND,
        **vars(origin) | {"level": f"{origin.level:.0%}"},
    )


def _read(folder: Any, name: str) -> str:
    return str((folder / name).read_text(encoding="utf-8"))


def _embedded(picture: Picture) -> dict[str, str]:
    data = base64.b64encode(svg(picture.figure)).decode("ascii")
    source = f"data:image/svg+xml;base64,{data}"
    return {"name": picture.name, "caption": picture.caption, "source": source}


def _script_json(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def write_report(
    out: Path,
    items: Sequence[MaskResult],
    analysis: Analysis,
    options: ReportOptions,
    origin: Provenance,
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
        "results.md": results_table(items, options.thresholds),
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
