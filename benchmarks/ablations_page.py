"""The rows of `benchmarks.terms` and `benchmarks.granularity` as the tables of docs/ablations.md.

python -m benchmarks.ablations_page
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import granularity, terms

PAGE = Path("docs/ablations.md")
RATIO, SHARE, NATS = "×", "%", "nats"
TERMS = {
    "sparsity": ("sparsity", SHARE),
    "target_ppl_ratio": ("target facts, PPL ×", RATIO),
    "paraphrase_ppl_ratio": ("target, unseen prompts, PPL ×", RATIO),
    "heldout_ppl_ratio": ("control facts, held out, PPL ×", RATIO),
    "neighborhood_ppl_ratio": ("neighborhood, PPL ×", RATIO),
    "text_ppl_ratio": ("text, PPL ×", RATIO),
    "alone_target_nll": ("subnetwork alone: target NLL [nats]", NATS),
}
"""Metric -> heading and how it is averaged and written."""
UNITS = {
    "sparsity": ("sparsity", SHARE),
    "target_ppl_ratio": ("target facts, PPL ×", RATIO),
    "random_target_ppl_ratio": ("target, random units, PPL ×", RATIO),
    "heldout_ppl_ratio": ("control facts, held out, PPL ×", RATIO),
    "random_heldout_ppl_ratio": ("control, random units, PPL ×", RATIO),
    "neighborhood_ppl_ratio": ("neighborhood, PPL ×", RATIO),
    "text_ppl_ratio": ("text, PPL ×", RATIO),
    "random_text_ppl_ratio": ("text, random units, PPL ×", RATIO),
    "random_p": ("largest p", NATS),
}
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


def table(rows: Sequence[Row], variants: Sequence[str], columns: Mapping[str, Any]) -> str:
    """Return a Markdown table, one line per variant that has rows."""
    header = ["variant", "masks", *(heading for heading, _ in columns.values())]
    lines = [header, [":---", *["---:"] * (len(header) - 1)]]
    for variant in variants:
        own = [row for row in rows if row["variant"] == variant]
        if own:
            cells = (cell(own, name, kind) for name, (_, kind) in columns.items())
            lines.append([variant, str(len(own)), *cells])
    if not rows:
        return "No row has been measured yet.\n"
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def between_markers(text: str, name: str, made: str) -> str:
    """Return a page with what lies between the markers of a name replaced."""
    before, begin, rest = text.partition(f"<!-- {name}:begin -->\n")
    _, end, after = rest.partition(f"<!-- {name}:end -->")
    return f"{before}{begin}{made}{end}{after}"


def main() -> None:
    """Write both tables between their markers."""
    text = PAGE.read_text(encoding="utf-8")
    for module, columns in ((terms, TERMS), (granularity, UNITS)):
        made = table(terms.read_rows(module.FOUND), list(module.VARIANTS), columns)
        text = between_markers(text, module.FOUND.stem, made)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
