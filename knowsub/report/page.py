"""The report as files: which figures it shows, tables, and one self-contained HTML page."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from knowsub.report import tables
from knowsub.report.collect import Analysis, MaskResult, Row
from knowsub.report.cross import Matrix, cross_matrices
from knowsub.report.metrics import summarize
from knowsub.report.options import ReportOptions
from knowsub.report.plots import (
    Figure,
    Points,
    TrainingCurve,
    cross_map,
    density_map,
    fact_bars,
    head_map,
    overlap_map,
    recovery_curves,
    styled,
    svg,
    tradeoff,
    training_curves,
    write_png,
)
from knowsub.report.reference_tables import reference_tables
from knowsub.report.structure_tables import (
    COLUMNS,
    downstream_table,
    examples,
    fact_bar_values,
    filters,
    structure_tables,
    table_rows,
)


@dataclass(frozen=True)
class ReportFigure:
    """One figure of the report."""

    name: str
    """File name without ending."""
    caption: str
    """What it shows and how to read it."""
    figure: Figure
    """The drawing."""


def report_figures(results: Sequence[MaskResult], analysis: Analysis) -> Iterator[ReportFigure]:
    """Yield every figure that there are values for, in the order of the page."""
    for name, (draw, caption) in FIGURES.items():
        figure = styled(partial(draw, results, analysis))
        if figure is not None:
            yield ReportFigure(name, caption, figure)


def _facts(results: Sequence[MaskResult], analysis: Analysis) -> Figure | None:
    bars: dict[str, list[tuple[str, float, float]]] = {}
    for result in results:
        bars.setdefault(result.target, fact_bar_values(result.facts))  # the first seed's
    bars = {target: rows for target, rows in bars.items() if rows}
    return fact_bars(bars) if bars else None


def _tradeoff(results: Sequence[MaskResult], analysis: Analysis) -> Figure | None:
    methods: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in analysis.get("ablations", {}).get("tradeoff", []):
        sizes = methods.setdefault(row["method"], {})
        sizes.setdefault(row["name"], []).append((row["control_dnll"], row["target_dnll"]))
    means = {
        method: [(float(size), *np.mean(values, axis=0).tolist()) for size, values in sizes.items()]
        for method, sizes in methods.items()
    }
    return tradeoff(means) if means else None


def _cross(results: Sequence[MaskResult], analysis: Analysis) -> Figure | None:
    matrices = list(cross_matrices(results).values())
    targets = list(dict.fromkeys(result.target for result in results))
    return cross_map(targets, np.mean(matrices, axis=0)) if matrices else None


def _training(results: Sequence[MaskResult], analysis: Analysis) -> Figure | None:
    curves: dict[str, dict[str, TrainingCurve]] = {}
    for result in results:
        if result.curve:
            chosen = int(result.training.get("chosen", {}).get("step", 0))
            curves.setdefault(result.target, {})[f"seed {result.seed}"] = (result.curve, chosen)
    return training_curves(curves) if curves else None


MODULE_TYPES = ("q", "k", "v", "output", "mlp_in", "mlp_gate", "mlp_out")
"""Rows of the map of densities."""


def _density(results: Sequence[MaskResult], analysis: Analysis) -> Figure | None:
    """Draw the density of every matrix by block and module type, one map per target."""
    targets = _mean_by_target(analysis, "matrix", "density")
    cells = {tuple(name.split(" ")[1:]) for means in targets.values() for name in means}
    blocks = sorted({int(block) for block, _ in cells})
    rows = [kind for kind in MODULE_TYPES if kind in {kind for _, kind in cells}]
    grids = _grids(targets, [[f"block {block} {kind}" for block in blocks] for kind in rows])
    return density_map(grids, rows, [str(block) for block in blocks]) if grids else None


def _heads(results: Sequence[MaskResult], analysis: Analysis) -> Figure | None:
    """Draw the density of every attention head over the mean, one map per target."""
    targets = _mean_by_target(analysis, "head", "enrichment")
    names = [name.split(" ") for means in targets.values() for name in means]
    blocks = sorted({int(block) for _, block, _, _ in names})
    heads = range(max((int(head) for _, _, _, head in names), default=-1) + 1)
    grids = _grids(targets, [[f"block {block} head {head}" for head in heads] for block in blocks])
    return head_map(grids, [f"block {block}" for block in blocks]) if grids else None


def _grids(
    targets: Mapping[str, Mapping[str, float]], groups: Sequence[Sequence[str]]
) -> dict[str, Matrix]:
    """Return target -> values of the groups, rows by columns; NaN where a target lacks one."""
    return {
        target: np.array([[means.get(name, np.nan) for name in row] for row in groups])
        for target, means in targets.items()
    }


def _mean_by_target(analysis: Analysis, grouping: str, value: str) -> dict[str, dict[str, float]]:
    """Return target -> group of the grouping -> mean of a value over the seeds."""
    values: dict[str, dict[str, list[float]]] = {}
    for mask in analysis.get("structure", {}).get("masks", []):
        for group in mask["groupings"].get(grouping, {}).get("groups", []):
            by_name = values.setdefault(mask["target"], {})
            by_name.setdefault(group["name"], []).append(group[value])
    return {
        target: {name: float(np.mean(seeds)) for name, seeds in by_name.items()}
        for target, by_name in values.items()
    }


def _overlap(results: Sequence[MaskResult], analysis: Analysis) -> Figure | None:
    names = [result.name for result in results]
    ratios: Matrix = np.full((len(names), len(names)), np.nan)
    for pair in analysis.get("overlap", {}).get("pairs", []):
        if pair["first"] in names and pair["second"] in names:
            row, column = names.index(pair["first"]), names.index(pair["second"])
            ratios[row, column] = ratios[column, row] = pair["ratio"]
    return overlap_map(names, ratios) if np.isfinite(ratios).any() else None


def _recovery(results: Sequence[MaskResult], analysis: Analysis) -> Figure | None:
    panels = recovery(results)
    return recovery_curves(panels, "accuracy on target questions [%]") if panels else None


def _relearning(results: Sequence[MaskResult], analysis: Analysis) -> Figure | None:
    panels = relearned(results)
    return recovery_curves(panels, "accuracy on target facts [%]") if panels else None


def relearned(results: Sequence[MaskResult]) -> dict[str, dict[str, Points]]:
    """Return condition -> model -> mean accuracy of the masks along finetuning [%]."""
    runs: dict[str, dict[str, list[dict[int, float]]]] = {}
    for result in results:
        for condition, models in result.relearning.items():
            data, _, rest = condition.partition(" ")
            by_model = runs.setdefault(f"{RELEARNED_ON.get(data, data)}\n{rest}", {})
            for model, points in models.items():
                name = "never taught" if model == "retain" else model
                curve = {int(point["step"]): 100 * float(point["accuracy"]) for point in points}
                by_model.setdefault(name, []).append(curve)
    return {
        condition: {name: _mean_curve(curves) for name, curves in models.items()}
        for condition, models in runs.items()
    }


RELEARNED_ON = {"target": "on other target facts", "control": "on control facts alone",
                "neighborhood": "on neighborhood facts", "text": "on text"}  # fmt: skip
"""What was finetuned on -> its name in the figure."""

MODELS = ("original", "random", "remaining")
"""Models in the order of the legend; others follow."""


def recovery(results: Sequence[MaskResult]) -> dict[str, dict[str, Points]]:
    """Return adaptation -> model -> accuracy on target questions over the steps [%].

    Mean over masks and repeats; a run that stopped early keeps its last value to the end.
    """
    runs: dict[tuple[str, str], dict[tuple[str, str], dict[int, float]]] = defaultdict(dict)
    for result in results:
        for row in result.finetune_curve:
            if row["split"] == "target":
                by_run = runs[row["adaptation"], row["model"]]
                points = by_run.setdefault((result.name, row["seed"]), {})
                points[int(row["step"])] = 100 * float(row["accuracy"])
    order = {model: place for place, model in enumerate(MODELS)}
    panels: dict[str, dict[str, Points]] = {}
    for adaptation in dict.fromkeys(adaptation for adaptation, _ in runs):
        models = [model for other, model in runs if other == adaptation]
        panels[adaptation] = {
            model: _mean_curve(list(runs[adaptation, model].values()))
            for model in sorted(models, key=lambda model: (order.get(model, len(order)), model))
        }
    return panels


def _mean_curve(runs: Sequence[Mapping[int, float]]) -> Points:
    points = []
    for step in sorted({step for run in runs for step in run}):
        values = [run[max((s for s in run if s <= step), default=min(run))] for run in runs]
        points.append((float(step), sum(values) / len(values)))
    return points


Draw = Callable[[Sequence[MaskResult], Analysis], Figure | None]

FIGURES: Mapping[str, tuple[Draw, str]] = {
    "facts": (_facts,
        "Every target fact before (blue) and after the removal (red), first seed of each target; "
        "one axis for all. A long line means that the object has become unlikely."),
    "tradeoff": (_tradeoff,
        "What the target loses against what held-out control facts lose as masks grow: random "
        "parts of the trained mask up to all of it, and the baselines' masks from a part to a "
        "multiple of its size (the ring is its size). Mean over targets."),
    "cross": (_cross,
        "What removing the subnetwork of one target (row) does to the facts of each (column), mean "
        "over seeds. A selective removal is bright on the diagonal and dark elsewhere."),
    "training": (_training,
        "Validation metrics while each mask is trained, one color per seed; the ring is the "
        "checkpoint chosen by the written rule, on validation data alone."),
    "relearning": (_relearning,
        "Relearning: accuracy on target facts that are not finetuned on, as training on others "
        "goes on, mean over masks. What matters is the distance from the model that was never "
        "taught the target: removal that holds stays near it."),
    "density": (_density,
        "Placement: share of each matrix that belongs to the subnetwork, by block and type of "
        "matrix, mean over seeds."),
    "heads": (_heads,
        "Attention heads: density over that of all heads, mean over seeds. 1.00 is uniform "
        "placement; orange is more, purple less."),
    "overlap": (_overlap,
        "Weights that two masks share, over what independent masks of the same densities per "
        "matrix would share. 1 is chance."),
    "recovery": (_recovery,
        "Recovery by finetuning: accuracy on questions about the target as training goes on, mean "
        "over masks and repeats."),
}  # fmt: skip
"""Name -> how it is drawn, and its caption; in the order of the page."""


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


EMBEDDED = (
    "a small GPT-2",
    "The model was trained here, on English text and on the facts of targets and controls, so that "
    "it knows all of them and what it loses can be counted.",
)
"""How the embedded model is called on the page, and the sentence that explains it."""


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
        model_name=EMBEDDED[0] if origin.model == "embedded" else origin.model,
        model=EMBEDDED[1] if origin.model == "embedded" else "",
        examples=examples(results),
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
        structure=[
            *structure_tables(report.analysis),
            *reference_tables(results, report.analysis),
        ],
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
