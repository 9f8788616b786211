"""The report as files: one self-contained HTML page, the summary, tables and figures."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from knowsub.report import tables
from knowsub.report.collect import Analysis, MaskResult, Row
from knowsub.report.facts import COLUMNS, filters, table_rows
from knowsub.report.figures import ReportFigure, report_figures
from knowsub.report.metrics import summarize
from knowsub.report.options import ReportOptions
from knowsub.report.plots import svg, write_png
from knowsub.report.structure_tables import downstream_table, structure_tables


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
    confidence_level: float
    """Confidence level of the intervals [fraction]."""


@dataclass(frozen=True)
class Report:
    """Everything that the report is made of."""

    results: Sequence[MaskResult]
    """All masks, at least one."""
    analysis: Analysis
    """What the stage `analyze` wrote."""
    compared: Mapping[str, Sequence[Row]]
    """Other run -> metrics of its masks, shown beside this run's."""
    options: ReportOptions
    """How the report is written."""
    provenance: Provenance
    """Where the results come from."""


def write_report(out: Path, report: Report) -> list[Path]:
    """Write the summary, the tables, the figures and the page.

    Args:
        out: Folder to write to; it is made.
        report: What to write.

    Returns:
        The files written: `summary.json`, `results.md`, `metrics.csv`, `figures/*.png` and
        `report.html`.

    Raises:
        OSError: If a file cannot be written.
    """
    (out / "figures").mkdir(parents=True, exist_ok=True)
    figures = list(report_figures(report.results, report.analysis))
    texts = {
        "summary.json": json.dumps(summarize(report.results), indent=1, allow_nan=False) + "\n",
        "results.md": tables.full_table(report.results, report.options.thresholds),
        "metrics.csv": tables.metrics_csv(report.results),
        "report.html": render(report, figures),
    }
    written = []
    for figure in figures:
        written.append(out / "figures" / f"{figure.name}.png")
        write_png(figure.figure, written[-1], report.options.dpi)
    for name, text in texts.items():
        written.append(out / name)
        written[-1].write_text(text, encoding="utf-8", newline="\n")
    return written


def render(report: Report, figures: Sequence[ReportFigure]) -> str:
    """Return the page: HTML that fetches nothing; the same values give the same text."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    folder = files("knowsub.report") / "templates"
    template, css, script = (
        (folder / name).read_text(encoding="utf-8")
        for name in ("report.html.j2", "style.css", "table.js")
    )
    results, options, origin = report.results, report.options, report.provenance
    facts = table_rows(results, options.max_control_facts)
    return environment.from_string(template).render(
        options=options,
        provenance=origin,
        confidence_level=f"{origin.confidence_level:.0%}",
        command=tables.COMMAND,
        css=Markup(css),
        script=Markup(script),
        masks=[(result.target, f"seed {result.seed}") for result in results],
        cards=tables.cards(results, options.thresholds),
        headline=tables.headline(results, options.thresholds),
        evidence=tables.evidence(results, options.thresholds),
        intervals=any(result.intervals for result in results),
        skipped=[f"{r.name}: {name}: {why}" for r in results for name, why in r.skipped.items()],
        other_metrics=tables.unspecified_metrics(results),
        baselines=tables.baseline_table(results),
        runs=tables.compared_runs(results, report.compared, options.thresholds),
        figures=[_embedded(figure) for figure in figures],
        structure=list(structure_tables(report.analysis)),
        downstream=downstream_table(results),
        facts=Markup(_script_json(facts)) if facts else "",
        fact_columns=COLUMNS,
        filters=filters(results),
    )


def _embedded(figure: ReportFigure) -> dict[str, str]:
    data = base64.b64encode(svg(figure.figure)).decode("ascii")
    source = f"data:image/svg+xml;base64,{data}"
    return {"name": figure.name, "caption": figure.caption, "source": source}


def _script_json(value: object) -> str:
    """Return JSON that cannot end the script element that it stands in."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
