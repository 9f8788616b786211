"""The rows of `benchmarks.rivals` and the preset `erase` as the table of docs/rivals.md.

python -m benchmarks.rivals_page
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import frontier, rivals
from benchmarks.ablations_page import NATS, RATIO, between_markers, table
from benchmarks.terms import read_rows

PAGE, ERASE = Path("docs/rivals.md"), "mask (preset erase)"
COLUMNS = {
    "steps": ("steps", NATS),
    "target_ppl_ratio": ("target facts, PPL ×", RATIO),
    "paraphrase_ppl_ratio": ("unseen prompts, PPL ×", RATIO),
    "target_accuracy": ("top-1", NATS),
    "choice_accuracy": ("choice", NATS),
    "control_ppl_ratio": ("control, used, PPL ×", RATIO),
    "heldout_ppl_ratio": ("control, held out, PPL ×", RATIO),
    "neighborhood_ppl_ratio": ("neighborhood, PPL ×", RATIO),
    "text_ppl_ratio": ("text, PPL ×", RATIO),
}
"""Metric -> heading and how it is averaged and written."""
RELEARNED = {
    "forget_quality": ("forget quality p", NATS),
    "excess_recovery": ("excess recovery", NATS),
    "excess_recovery_5": ("5 steps", NATS),
    "excess_recovery_20": ("20 steps", NATS),
    "excess_recovery_60": ("60 steps", NATS),
    "excess_recovery_control_20": ("20 steps on control facts alone", NATS),
}


def main() -> None:
    """Write both tables between their markers, of the targets and seeds that every method has."""
    rows = read_rows(rivals.FOUND)
    each = [{(r["target"], r["seed"]) for r in rows if r["variant"] == v} for v in rivals.VARIANTS]
    compared = set.intersection(*each)
    rows = [row for row in rows if (row["target"], row["seed"]) in compared]
    erased = [row for row in read_rows(frontier.FOUND) if row["variant"] == "erase"]
    rows += [r | {"variant": ERASE} for r in erased if (r["target"], r["seed"]) in compared]
    variants = [rivals.MASK, ERASE, *rivals.VARIANTS[1:]]
    text = PAGE.read_text(encoding="utf-8")
    for name, columns in (("rivals", COLUMNS), ("relearned", RELEARNED)):
        text = between_markers(text, name, table(rows, variants, columns))
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
