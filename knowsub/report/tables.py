"""The results as Markdown and CSV, and the page's tables of metrics as values ready to print."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from knowsub.hypotheses import holm
from knowsub.report.collect import MaskResult, Row
from knowsub.report.definitions import definition
from knowsub.report.metrics import (
    EVIDENCE,
    HEADLINE,
    METRIC_SPECS,
    format_metric,
    mask_metrics,
    mean_metrics,
    median_metrics,
    meets_threshold,
    missed_thresholds,
    summarize,
    worst_metrics,
)

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
"""The lines of a Markdown file between which its results table stands."""

COMMAND = "make repro"
"""The command that makes the results."""

README_METRICS = ("sparsity", "target_ppl_ratio", "heldout_ppl_ratio", "text_vs_random")
"""The metrics of the README's table; target and seed stand before them."""

Thresholds = Mapping[str, str]
"""Metric -> threshold such as `<= 1.05`."""


def full_table(results: Sequence[MaskResult], thresholds: Thresholds) -> str:
    """Return the tables of all headline metrics and of the baselines in Markdown.

    One row per mask, then the median and the worst of every column; a metric that misses its
    threshold is bold and marked. Nothing in it depends on when it was made.
    """
    names = _headline_names(results)
    listed = [f"{METRIC_SPECS[n].label} {thresholds[n]}" for n in names if n in thresholds]
    note = (
        f"Written by `{COMMAND}`. PPL ×: perplexity of the remaining model over the original's on "
        "the same items."
    )
    if listed:
        note += f" Thresholds: {'; '.join(listed)}. **Bold ✗**: missed."
    text = f"{_mask_table(results, thresholds, names)}\n{note}\n"
    if baselines := baseline_table(results):
        header = ["method", *(column["label"] for column in baselines["columns"])]
        rows = [[row["name"], *row["cells"]] for row in baselines["rows"]]
        text += "\nAs many weights of each matrix, chosen by other methods; means over masks:\n\n"
        text += _markdown(header, rows, names=1)
    return text


def readme_table(results: Sequence[MaskResult], thresholds: Thresholds) -> str:
    """Return the table of `README_METRICS` in Markdown, and how many masks meet all thresholds."""
    met = sum(not missed_thresholds(result, thresholds) for result in results)
    return (
        f"{_mask_table(results, thresholds, README_METRICS)}\n"
        f"Written by `{COMMAND}`, one row per mask, none left out: {met} of {len(results)} masks "
        f"meet all {len(thresholds)} thresholds of `params.yaml`. **Bold ✗**: missed.\n"
    )


def _mask_table(results: Sequence[MaskResult], thresholds: Thresholds, names: Sequence[str]) -> str:
    metrics = [mask_metrics(result) for result in results]
    rows = [
        *((f"`{result.target}`", str(result.seed), row)
          for result, row in zip(results, metrics, strict=True)),
        ("**median**", "", median_metrics(metrics)),
        ("**worst**", "", worst_metrics(metrics)),
    ]  # fmt: skip
    cells = [
        [target, seed, *(_markdown_cell(_cell(name, row, thresholds)) for name in names)]
        for target, seed, row in rows
    ]
    header = ["target removed", "seed", *(METRIC_SPECS[name].label for name in names)]
    return _markdown(header, cells, names=1)


def _markdown_cell(cell: Mapping[str, Any]) -> str:
    return f"**{cell['text']} ✗**" if cell["missed"] else str(cell["text"])


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]], names: int) -> str:
    """Return a Markdown table whose first `names` columns are aligned left, the others right."""
    alignment = [":---"] * names + ["---:"] * (len(header) - names)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, alignment, *rows))


def write_tables(
    readme: Path, docs: Path, results: Sequence[MaskResult], thresholds: Thresholds
) -> None:
    """Write the short table into the README and the full one into the documentation.

    A file that does not exist or has no pair of markers is left alone.
    """
    for path, table in (
        (readme, readme_table(results, thresholds)),
        (docs, full_table(results, thresholds)),
    ):
        if path.is_file():
            old = path.read_text(encoding="utf-8")
            new = replace_between_markers(old, table)
            if new != old:
                path.write_text(new, encoding="utf-8")


def replace_between_markers(text: str, table: str) -> str:
    """Return a text with what stands between its markers replaced; unchanged without a pair."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}\n{table}{end}{after}" if begin and end else text


def metrics_csv(results: Sequence[MaskResult]) -> str:
    """Return the metrics of all masks and baseline methods as CSV, with their intervals."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["target", "seed", "method", "metric", "value", "low", "high"])
    for result in results:
        for name, value in mask_metrics(result).items():
            ends = result.intervals.get(name, ("", ""))
            writer.writerow([result.target, result.seed, "trained", name, value, *ends])
        for method, metrics in result.methods.items():
            for name, value in metrics.items():
                writer.writerow([result.target, result.seed, method, name, value, "", ""])
    return buffer.getvalue()


def _headline_names(results: Sequence[MaskResult]) -> list[str]:
    """Return the headline metrics that any mask has, in order."""
    known = {name for result in results for name in mask_metrics(result)}
    return [spec.name for spec in HEADLINE if spec.name in known]


def _column(name: str, thresholds: Thresholds) -> dict[str, str]:
    spec = METRIC_SPECS[name]
    return {"label": spec.label, "meaning": spec.meaning, "threshold": thresholds.get(name, "")}


def _cell(
    name: str,
    metrics: Mapping[str, float],
    thresholds: Thresholds,
    intervals: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, Any]:
    ends = (intervals or {}).get(name, ())
    return {
        "text": format_metric(name, metrics.get(name)),
        "missed": name in metrics and meets_threshold(metrics[name], thresholds.get(name)) is False,
        "interval": " to ".join(format_metric(name, end) for end in ends),
    }


def cards(results: Sequence[MaskResult], thresholds: Thresholds) -> list[dict[str, str]]:
    """Return `label`, `value` and `status` (`good`, `bad` or empty) of the cards of the page."""
    middle = median_metrics([mask_metrics(result) for result in results])
    shown = [
        (f"{METRIC_SPECS[name].label}, median", format_metric(name, middle[name]),
         meets_threshold(middle[name], thresholds.get(name)))
        for name in ("sparsity", "target_ppl_ratio", "paraphrase_ppl_ratio", "heldout_ppl_ratio")
        if name in middle
    ]  # fmt: skip
    if thresholds:
        met = sum(not missed_thresholds(result, thresholds) for result in results)
        met_by_all = met == len(results)
        shown.append(("masks meet every threshold", f"{met} of {len(results)}", met_by_all))
    status = {True: "good", False: "bad", None: ""}
    return [{"label": label, "value": value, "status": status[ok]} for label, value, ok in shown]


def headline(results: Sequence[MaskResult], thresholds: Thresholds) -> dict[str, Any]:
    """Return `columns` and `rows` of the results table; the median and the worst stand last."""
    names = _headline_names(results)
    metrics = [mask_metrics(result) for result in results]
    rows: list[dict[str, Any]] = [
        {"target": result.target, "seed": str(result.seed), "total": False,
         "cells": [_cell(name, row, thresholds, result.intervals) for name in names]}
        for result, row in zip(results, metrics, strict=True)
    ]  # fmt: skip
    for label, row in (("median", median_metrics(metrics)), ("worst", worst_metrics(metrics))):
        cells = [_cell(name, row, thresholds) for name in names]
        rows.append({"target": label, "seed": "", "total": True, "cells": cells})
    return {"columns": [_column(name, thresholds) for name in names], "rows": rows}


def evidence(results: Sequence[MaskResult], thresholds: Thresholds) -> list[dict[str, Any]]:
    """Return the other metrics as groups of rows: one row per metric, one cell per mask."""
    metrics = [mask_metrics(result) for result in results]
    middle = median_metrics(metrics)
    groups: dict[str, list[dict[str, Any]]] = {}
    for spec in EVIDENCE:
        if spec.name in middle:
            cells = [
                _cell(spec.name, row, thresholds, result.intervals)
                for result, row in zip(results, metrics, strict=True)
            ]
            row = _column(spec.name, thresholds) | {"better": str(spec.better)}
            row["median"] = format_metric(spec.name, middle[spec.name])
            groups.setdefault(spec.group, []).append({**row, "cells": cells})
    return [{"name": name, "rows": rows} for name, rows in groups.items()]


def unspecified_metrics(results: Sequence[MaskResult]) -> list[list[str]]:
    """Return name, median, least, greatest and meaning of the metrics without `MetricSpec`."""
    rows = []
    for name in sorted({n for result in results for n in result.metrics} - METRIC_SPECS.keys()):
        values = [float(result.metrics[name]) for result in results if name in result.metrics]
        cells = [format_metric(name, value) for value in (median(values), min(values), max(values))]
        rows.append([name.replace("_", " "), *cells, definition(name)])
    return rows


def baseline_table(results: Sequence[MaskResult]) -> dict[str, Any] | None:
    """Return means over masks of the trained masks and every baseline; None without baselines."""
    shown = (
        "target_ppl_ratio", "paraphrase_ppl_ratio", "control_ppl_ratio", "heldout_ppl_ratio",
        "neighborhood_ppl_ratio", "text_ppl_ratio", "choice_accuracy",
        "target_dnll_at_equal_control",
    )  # fmt: skip
    baselines = {row["method"]: row for row in summarize(results)["baselines"]}
    if not baselines:
        return None
    trained = "trained mask"
    rows = {trained: mean_metrics([mask_metrics(result) for result in results])} | baselines
    names = [name for name in shown if any(name in row for row in baselines.values())]
    leads = _leads(results)
    columns = [_column(name, {}) for name in names]
    columns.append({"label": "trained leads by", "meaning": "target NLL, Hodges-Lehmann, median"})
    columns.append({"label": "largest p", "meaning": "Wilcoxon over facts, Holm over masks"})
    return {
        "columns": columns,
        "rows": [
            {"name": name.replace("_", " "), "total": name == trained,
             "cells": [format_metric(n, row.get(n)) for n in names]
             + list(leads.get(name, ("–", "–")))}
            for name, row in rows.items()
        ],
    }  # fmt: skip


def _leads(results: Sequence[MaskResult]) -> dict[str, tuple[str, str]]:
    """Method -> the trained masks' lead on the target and the largest p, Holm over masks."""
    leads = {}
    for method in dict.fromkeys(name for result in results for name in result.method_tests):
        tests = [result.method_tests[method] for result in results if method in result.method_tests]
        effect = median(test["effect"] for test in tests)
        largest = max(holm([test["pvalue"] for test in tests]))
        leads[method] = (f"{effect:.2f} nats", f"{largest:.2g}")
    return leads


THIS_RUN = "this run"
"""Name of the run that the report is of."""


def compared_runs(
    results: Sequence[MaskResult], others: Mapping[str, Sequence[Row]], thresholds: Thresholds
) -> dict[str, Any] | None:
    """Return medians and ranges of this run and others, and how many masks miss a threshold."""
    if not others:
        return None
    shown = (
        "sparsity", "target_ppl_ratio", "paraphrase_ppl_ratio", "heldout_ppl_ratio",
        "neighborhood_ppl_ratio", "text_ppl_ratio", "random_target_ppl_ratio",
        "random_text_ppl_ratio", "choice_accuracy", "choice_reference", "target_median_rank",
        "random_object_rank", "extraction_top10", "subject_identifiability",
        "subject_identifiability_chance",
    )  # fmt: skip
    runs = {THIS_RUN: [mask_metrics(result) for result in results], **others}
    names = [name for name in shown if any(name in row for rows in runs.values() for row in rows)]
    return {
        "columns": [_column(name, thresholds) for name in names],
        "rows": [
            {"name": run, "masks": len(rows), "total": run == THIS_RUN,
             "cells": [
                 _run_cell(name, [row[name] for row in rows if name in row], thresholds.get(name))
                 for name in names
             ]}
            for run, rows in runs.items()
        ],
    }  # fmt: skip


def _run_cell(name: str, values: Sequence[float], threshold: str | None) -> dict[str, Any]:
    if not values:
        return {"text": format_metric(name, None), "range": "", "missed": 0}
    ends = (format_metric(name, end) for end in (min(values), max(values)))
    missed = sum(meets_threshold(value, threshold) is False for value in values)
    return {
        "text": format_metric(name, median(values)), "range": " to ".join(ends), "missed": missed
    }  # fmt: skip
