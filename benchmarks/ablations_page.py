"""The rows of `benchmarks.terms` and `benchmarks.granularity`: docs/ablations.md and the report.

    python -m benchmarks.ablations_page

Writes the tables of the page, and a file of each variant into data/compared, which the report shows
beside its own run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import granularity, terms
from knowsub.artifacts import atomic_write
from knowsub.report.metrics import METRIC_SPECS

PAGE = Path("docs/ablations.md")
RATIO, SHARE, NATS = "×", "%", "nats"
HEADINGS = {
    "sparsity": ("sparsity", SHARE),
    "density": ("density", SHARE),
    "steps": ("steps", NATS),
    "target_ppl_ratio": ("target facts, PPL ×", RATIO),
    "random_target_ppl_ratio": ("target, random units, PPL ×", RATIO),
    "paraphrase_ppl_ratio": ("target, unseen prompts, PPL ×", RATIO),
    "target_accuracy": ("top-1", NATS),
    "retain_target_accuracy": ("never taught", NATS),
    "choice_accuracy": ("choice", NATS),
    "retain_choice_accuracy": ("never taught", NATS),
    "control_ppl_ratio": ("control facts, used, PPL ×", RATIO),
    "heldout_ppl_ratio": ("control facts, held out, PPL ×", RATIO),
    "random_heldout_ppl_ratio": ("control, random units, PPL ×", RATIO),
    "neighborhood_ppl_ratio": ("neighborhood, PPL ×", RATIO),
    "text_ppl_ratio": ("text, PPL ×", RATIO),
    "random_text_ppl_ratio": ("text, random units, PPL ×", RATIO),
    "text_vs_random": ("text over random removal's", RATIO),
    "random_p": ("largest p", NATS),
    "alone_target_nll": ("subnetwork alone: target NLL [nats]", NATS),
    "forget_quality": ("forget quality p", NATS),
    "excess_recovery": ("excess recovery", NATS),
    "excess_recovery_5": ("excess after 5 steps", NATS),
    "excess_recovery_20": ("20 steps", NATS),
    "excess_recovery_60": ("60 steps", NATS),
    "excess_recovery_control_20": ("20 steps on control facts alone", NATS),
}
"""Metric -> its heading in every table, and how it is averaged and written."""
TERMS = (
    "sparsity", "target_ppl_ratio", "paraphrase_ppl_ratio", "heldout_ppl_ratio",
    "neighborhood_ppl_ratio", "text_ppl_ratio", "alone_target_nll",
)  # fmt: skip
UNITS = (
    "sparsity", "target_ppl_ratio", "random_target_ppl_ratio", "heldout_ppl_ratio",
    "random_heldout_ppl_ratio", "neighborhood_ppl_ratio", "text_ppl_ratio",
    "random_text_ppl_ratio", "random_p",
)  # fmt: skip
Row = Mapping[str, Any]


def number(value: float, kind: str) -> str:
    """Return a value with the digits worth comparing."""
    if kind == SHARE:
        return f"{value:.2%}".replace("%", " %")
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value >= 3 else f"{value:.3f}"


def cell(rows: Sequence[Row], name: str, kind: str) -> str:
    """Return the mean over masks (geometric for ratios), the least and the greatest in brackets."""
    values = [float(row[name]) for row in rows if name in row]
    if not values:
        return "–"
    if name == "random_p":
        return f"{max(values):.3f}"
    logs = [math.log(value) for value in values] if kind == RATIO else values
    mean = sum(logs) / len(logs)
    mean = math.exp(mean) if kind == RATIO else mean
    ends = f" ({number(min(values), kind)} to {number(max(values), kind)})"
    return number(mean, kind) + (ends if len(values) > 1 else "")


def table(rows: Sequence[Row], variants: Sequence[str], metrics: Sequence[str]) -> str:
    """Return a Markdown table, one line per variant that has rows."""
    header = ["variant", "masks", *(HEADINGS[name][0] for name in metrics)]
    lines = [header, [":---", *["---:"] * (len(header) - 1)]]
    for variant in variants:
        own = [row for row in rows if row["variant"] == variant]
        if own:
            cells = (cell(own, name, HEADINGS[name][1]) for name in metrics)
            lines.append([variant, str(len(own)), *cells])
    if not rows:
        return "No row has been measured yet.\n"
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def between_markers(text: str, name: str, made: str) -> str:
    """Return a page with what lies between the markers of a name replaced."""
    before, begin, rest = text.partition(f"<!-- {name}:begin -->\n")
    _, end, after = rest.partition(f"<!-- {name}:end -->")
    return f"{before}{begin}{made}{end}{after}"


COMPARED = Path("data/compared")


def write_compared(rows: Sequence[Row], variants: Sequence[str], prefix: str) -> None:
    """Write the metrics of each variant as the report reads those of other runs."""
    shown = {"target", "seed", *METRIC_SPECS}
    for variant in variants:
        own = [row for row in rows if row["variant"] == variant]
        if masks := [{name: row[name] for name in row if name in shown} for row in own]:
            name = f"{prefix}-{variant}".replace(", ", "-").replace(" ", "-").replace(".", "")
            text = json.dumps({"masks": masks}, indent=1) + "\n"
            atomic_write(COMPARED / f"{name}.json", text.encode())


def main() -> None:
    """Write both tables between their markers, and what the report shows of them."""
    text = PAGE.read_text(encoding="utf-8")
    for module, metrics in ((terms, TERMS), (granularity, UNITS)):
        rows, variants = terms.read_rows(module.FOUND), list(module.VARIANTS)
        made = table(rows, variants, metrics)
        write_compared(rows, variants, module.FOUND.stem)
        text = between_markers(text, module.FOUND.stem, made)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
