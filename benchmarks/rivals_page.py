"""The rows of `benchmarks.rivals` and the preset `erase` as the table of docs/rivals.md.

python -m benchmarks.rivals_page
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import frontier, rivals
from benchmarks.ablations_page import between_markers, table
from benchmarks.frontier_page import RELEARNED
from benchmarks.terms import read_rows

PAGE, ERASE = Path("docs/rivals.md"), "mask (preset erase)"
RIVALS = (
    "steps", "target_ppl_ratio", "paraphrase_ppl_ratio", "target_accuracy", "choice_accuracy",
    "control_ppl_ratio", "heldout_ppl_ratio", "neighborhood_ppl_ratio", "text_ppl_ratio",
)  # fmt: skip


def main() -> None:
    """Write both tables between their markers, of the targets and seeds that every row has."""
    rows = read_rows(rivals.FOUND)
    each = [{(r["target"], r["seed"]) for r in rows if r["variant"] == v} for v in rivals.VARIANTS]
    compared = set.intersection(*filter(None, each))
    rows = [row for row in rows if (row["target"], row["seed"]) in compared]
    erased = [row for row in read_rows(frontier.FOUND) if row["variant"] == "erase"]
    rows += [r | {"variant": ERASE} for r in erased if (r["target"], r["seed"]) in compared]
    variants = [rivals.MASK, ERASE, *rivals.VARIANTS[1:]]
    text = PAGE.read_text(encoding="utf-8")
    relearned = ("forget_quality", "excess_recovery", *RELEARNED)
    for name, metrics in (("rivals", RIVALS), ("relearned", relearned)):
        text = between_markers(text, name, table(rows, variants, metrics))
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
