"""The page: one self-contained HTML file."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from knowsub.analysis.options import ReportOptions
from knowsub.plots.style import svg
from knowsub.report import context
from knowsub.report.collect import Analysis, Item
from knowsub.report.downstream import downstream_table
from knowsub.report.facts import COLUMNS, table_rows
from knowsub.report.others import other_runs
from knowsub.report.pictures import Picture
from knowsub.report.places import tables
from knowsub.report.rivals import methods
from knowsub.report.summary import Figures, mask_figures
from knowsub.report.tables import COMMAND


@dataclass(frozen=True)
class Origin:
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
    items: Sequence[Item],
    analysis: Analysis,
    drawn: Sequence[Picture],
    options: ReportOptions,
    origin: Origin,
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
    facts = table_rows(items, options.facts)
    return environment.from_string(_read(folder, "report.html.j2")).render(
        title=options.title,
        css=Markup(_read(folder, "style.css")),
        script=Markup(_read(folder, "table.js")),
        masks=[(item.target, f"seed {item.seed}") for item in items],
        cards=context.cards(items, options.bars),
        bars=options.bars,
        headline=context.headline(items, options.bars),
        evidence=context.evidence(items, options.bars),
        intervals=any(item.intervals for item in items),
        skipped=[f"{i.name}: {name}: {why}" for i in items for name, why in i.skipped.items()],
        further=context.further(items),
        methods=methods(items),
        others=other_runs([mask_figures(item) for item in items], others, options.bars),
        pictures=[_embedded(picture) for picture in drawn],
        places=list(tables(analysis)),
        downstream=downstream_table(items),
        facts=Markup(_script_json(facts)) if facts else "",
        fact_columns=COLUMNS,
        picks=context.picks(items),
        control_facts=options.facts,
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
