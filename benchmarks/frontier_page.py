"""The rows of `benchmarks.frontier` as the picture and the tables of docs/relearning.md.

python -m benchmarks.frontier_page
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.ablations_page import Row, between_markers, table
from benchmarks.frontier import FOUND, VARIANTS
from benchmarks.terms import read_rows
from knowsub.report.plots import COLORS, GREY, MARKERS, styled, write_png

PAGE, PICTURE = Path("docs/relearning.md"), Path("docs/pictures/frontier.png")
SETS = ("control_ppl_ratio", "heldout_ppl_ratio", "neighborhood_ppl_ratio", "text_vs_random")
"""Whose worst is a mask's damage."""
RELEARNED = (
    "excess_recovery_5", "excess_recovery_20", "excess_recovery_60", "excess_recovery_control_20",
)  # fmt: skip
FRONTIER = ("density", "target_ppl_ratio", *SETS, *RELEARNED)
BEFORE = (
    "target_accuracy", "retain_target_accuracy", "choice_accuracy", "retain_choice_accuracy",
    "forget_quality",
)  # fmt: skip


def damage(row: Row) -> float:
    """Return the worst rise of PPL on anything that is to stay, at least a thousandth."""
    return max(1e-3, max(float(row[name]) for name in SETS) - 1)


def draw(rows: Sequence[Row]) -> Figure:
    """Draw excess recovery after 60 steps against density and against damage."""
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    panels: list[Axes] = list(figure.subplots(1, 2, sharey=True))
    names = [name for name in VARIANTS if any(row["variant"] == name for row in rows)]
    for index, name in enumerate(names):
        own = [row for row in rows if row["variant"] == name]
        color, marker = COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]
        face = color if index < len(COLORS) else "none"
        for axis, x in zip(panels, ([r["density"] for r in own], map(damage, own)), strict=True):
            y = [row["excess_recovery_60"] for row in own]
            axis.scatter(
                list(x), y, s=26, label=name, marker=marker, edgecolors=color, facecolors=face
            )
    for axis, label in zip(
        panels,
        (
            "density [fraction of maskable weights]",
            "worst rise of PPL on what is to stay [fraction]",
        ),
        strict=True,
    ):
        axis.set_xlabel(label)
        axis.axhline(0, color=GREY, linewidth=0.8)
        axis.axhline(1, color=GREY, linewidth=0.8, linestyle="--")
    panels[1].set_xscale("log")
    panels[0].set_ylabel("excess recovery after 60 steps [fraction]")
    panels[0].annotate("never taught", (0.5, 0.015), xycoords=("axes fraction", "data"))
    panels[0].annotate("original", (0.01, 1.02), xycoords=("axes fraction", "data"))
    panels[1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def main() -> None:
    """Write the picture, and the tables between their markers."""
    rows = [row | {"density": 1 - row["sparsity"]} for row in read_rows(FOUND)]
    figure = styled(lambda: draw(rows))
    assert figure is not None
    write_png(figure, PICTURE, 150)
    text = PAGE.read_text(encoding="utf-8")
    for name, metrics in (("frontier", FRONTIER), ("before", BEFORE)):
        text = between_markers(text, name, table(rows, list(VARIANTS), metrics))
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
