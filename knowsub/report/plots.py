"""How the figures are drawn: one style for curves, bars and maps; all of matplotlib is here."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

BLUE, ORANGE, GREEN, PURPLE, SKY, RED, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7A7A7A"
)  # fmt: skip
COLORS = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY, GREY)
"""Okabe and Ito's palette, safe for every form of color blindness."""

MARKERS = "osD^vPX"
"""One marker per color, so that no distinction rests on color alone."""

SEQUENTIAL, DIVERGING = "cividis", "PuOr_r"
"""Color maps."""

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": False,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "knowsub",
    "svg.fonttype": "path",
}


def styled(draw: Callable[[], Figure | None]) -> Figure | None:
    """Return what a function draws, in the common style whatever the caller's is."""
    with mpl.rc_context(STYLE):
        figure = draw()
        if figure is not None:  # the layout is solved once: every format shows the same one
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        return figure


def write_png(figure: Figure, path: Path, dpi: int) -> None:
    """Write a figure as PNG for DVC and MLflow; the same figure gives the same bytes."""
    with mpl.rc_context(STYLE):
        figure.savefig(path, format="png", dpi=dpi, metadata={"Software": None})


def svg(figure: Figure) -> bytes:
    """Return a figure as SVG for the page; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _panels(
    titles: Sequence[str], width: float, height: float, across: int = 3
) -> tuple[Figure, list[Axes]]:
    """Return a figure with one titled panel [inches] per name, at most `across` in a row."""
    columns = min(across, len(titles))
    rows = -(-len(titles) // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, title in zip(axes, titles, strict=False):
        axis.set_title(title)
    for axis in axes[len(titles) :]:
        axis.set_visible(False)
    return figure, axes[: len(titles)]


def _line_styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return name -> color, marker and label of its line."""
    return {
        name: {
            "color": COLORS[index % len(COLORS)],
            "marker": MARKERS[index % len(MARKERS)],
            "label": name.replace("_", " "),
        }
        for index, name in enumerate(names)
    }


Points = Sequence[tuple[float, float]]
"""(x, y) in order of x."""


TrainingCurve = tuple[Sequence[Mapping[str, float]], int]
"""Rows of a training curve, and the step of the chosen checkpoint (0 if unknown)."""


def training_curves(curves: Mapping[str, Mapping[str, TrainingCurve]]) -> Figure:
    """Draw target NLL, control PPL and density over the steps, one column per target.

    `curves`: target -> name of the seed -> rows of `curve.csv`, step of the chosen checkpoint.
    """
    figure = Figure(figsize=(2.9 * len(curves) + 0.4, 5.4), layout="constrained")
    grid = figure.subplots(3, len(curves), squeeze=False, sharex=True, sharey="row")
    names = list(dict.fromkeys(name for seeds in curves.values() for name in seeds))
    colors = {name: style["color"] for name, style in _line_styles(names).items()}
    panels = (
        ("validation_target_nll", "target NLL\n[nats per token]", 1),
        ("validation_control_ratio", "control PPL\n[ratio to original]", 1),
        ("validation_density", "density\n[%]", 100),
    )
    for column, (target, seeds) in enumerate(curves.items()):
        for name, (rows, chosen) in seeds.items():
            for axis, (metric, _, scale) in zip(grid[:, column], panels, strict=True):
                points = [(row["step"], scale * row[metric]) for row in rows if metric in row]
                _training_line(axis, points, chosen, colors[name])
        grid[0][column].set_title(target)
        grid[2][column].set_xlabel("optimizer step")
    for axis, (_, label, _) in zip(grid[:, 0], panels, strict=True):
        axis.set_ylabel(label)
    handles = [grid[0][0].plot([], [], color=colors[name], label=name)[0] for name in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(names), 8))
    return figure


def _training_line(axis: Axes, points: Points, chosen: int, color: str) -> None:
    if not points:
        return
    axis.plot(*zip(*points, strict=True), color=color)
    axis.grid(axis="y")
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    if chosen:  # a ring around the chosen checkpoint
        nearest = min(points, key=lambda point: abs(point[0] - chosen))
        axis.plot(*nearest, "o", markersize=7, markerfacecolor="none", color=color, mew=1.8)


def tradeoff(methods: Mapping[str, Sequence[tuple[float, float, float]]]) -> Figure:
    """Draw what the target loses against what the control loses, as masks grow.

    `methods`: method -> (size as a multiple of the trained mask, control dNLL, target dNLL [nats
    per token]) from the smallest mask to the largest. A ring marks the trained mask's size.
    """
    figure, (axis,) = _panels(["Target lost against control lost"], 5.6, 3.9)
    styles = _line_styles(list(methods))
    for name, points in methods.items():
        sizes, control, target = zip(*points, strict=True)
        trained = name == "trained"
        if 1.0 in sizes:
            ring = control[sizes.index(1.0)], target[sizes.index(1.0)]
            color = styles[name]["color"]
            axis.plot(*ring, "o", markersize=9, markerfacecolor="none", color=color)
        width, layer = (2.4, 3) if trained else (1.3, 2)
        axis.plot(control, target, linewidth=width, zorder=layer, **styles[name])
    damage = [point[1] for points in methods.values() for point in points]
    axis.set_xscale("symlog", linthresh=0.01)
    axis.set_xlim(min(0.0, *damage) - 0.002, max(0.05, *damage) * 1.3)
    axis.set_xlabel("control: NLL above the original's [nats per token]")
    axis.set_ylabel("target: NLL above the original's [nats per token]")
    axis.axvline(0, color=GREY, linewidth=0.6)
    axis.grid(axis="y")
    corner: dict[str, Any] = {"transform": axis.transAxes, "va": "top"}
    axis.text(0.02, 0.98, "↖ better", color=GREY, style="italic", **corner)
    figure.legend(loc="outside right center")
    return figure


def recovery_curves(panels: Mapping[str, Mapping[str, Points]], label: str) -> Figure:
    """Draw how models recover as they are finetuned [%], one panel per kind of finetuning."""
    names = list(dict.fromkeys(name for models in panels.values() for name in models))
    styles = _line_styles(names)
    figure, axes = _panels(list(panels), 2.9, 2.5)
    for axis, models in zip(axes, panels.values(), strict=True):
        for name, points in models.items():
            axis.plot(*zip(*points, strict=True), **styles[name])
        axis.grid(axis="y")
        axis.set_ylim(0, 104)
        axis.set_xlabel("finetuning step")
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes[0].set_ylabel(label)
    handles = [axes[0].plot([], [], **styles[name])[0] for name in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(names))
    return figure


def fact_bars(facts: Mapping[str, Sequence[tuple[str, float, float]]]) -> Figure:
    """Draw every fact (words, NLL before, NLL after [nats]) as a dumbbell, sorted by the last."""
    top = max(max(row[1:]) for rows in facts.values() for row in rows)
    longest = max(len(rows) for rows in facts.values())
    figure, axes = _panels(list(facts), 3.6, 1.2 + 0.17 * longest)
    for axis, rows in zip(axes, facts.values(), strict=True):
        ordered = sorted(rows, key=lambda row: row[2])
        y = range(len(ordered))
        before, after = ([row[side] for row in ordered] for side in (1, 2))
        axis.hlines(y, before, after, color=GREY, linewidth=1.2)
        axis.plot(before, y, "o", color=BLUE, markersize=4, label="original model")
        axis.plot(after, y, "o", color=RED, markersize=4, label="remaining model")
        axis.set_xlim(-0.03 * top, 1.03 * top)
        axis.set_yticks(y, [row[0] for row in ordered], fontsize=6.5)
        axis.set_ylim(-0.7, longest - 0.3)
        axis.tick_params(axis="y", length=0)
        axis.set_xlabel("NLL of the object [nats per token]")
        axis.grid(axis="x")
        axis.set_axisbelow(True)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2)
    return figure


Grid = npt.NDArray[np.float64]
"""Values by row and column; NaN where there is none."""


def density_map(
    densities: Mapping[str, Grid], module_types: Sequence[str], blocks: Sequence[str]
) -> Figure:
    """Draw the density of every matrix by type and block [fraction], one panel per target."""
    width, height = 1.5 + 0.42 * max(3, len(blocks)), 0.9 + 0.32 * len(module_types)
    figure, axes = _panels(list(densities), width, height)
    top = max(float(np.nanmax(grid)) for grid in densities.values()) * 100
    for axis, grid in zip(axes, densities.values(), strict=True):
        image = _map(axis, grid * 100, module_types, blocks, (SEQUENTIAL, 0.0, top))
        axis.set_xlabel("block")
    figure.colorbar(image, ax=axes, label="weights in the subnetwork [%]", shrink=0.9)
    return figure


def head_map(heads: Mapping[str, Grid], blocks: Sequence[str]) -> Figure:
    """Draw each attention head's density over the mean of all heads, one panel per target."""
    width = max(grid.shape[1] for grid in heads.values())
    figure, axes = _panels(list(heads), 1.5 + 0.42 * max(3, width), 1.1 + 0.36 * len(blocks))
    logs = {name: np.log2(np.maximum(grid, 1 / 16)) for name, grid in heads.items()}
    reach = max(0.5, *(float(np.nanmax(np.abs(grid))) for grid in logs.values()))
    for axis, grid in zip(axes, logs.values(), strict=True):
        columns = [str(head) for head in range(grid.shape[1])]
        image = _map(axis, grid, blocks, columns, (DIVERGING, -reach, reach), shown=2**grid)
        axis.set_xlabel("head")
    figure.colorbar(image, ax=axes, label="log2 of density\nover the mean", shrink=0.9)
    return figure


def overlap_map(names: Sequence[str], ratios: Grid) -> Figure:
    """Draw shared weights over their expectation by chance, mask by mask; NaN on the diagonal."""
    side = 2.2 + 0.5 * len(names)
    figure, (axis,) = _panels(["Weights in common over chance"], side + 1.0, side)
    top = max(float(np.nanmax(ratios)), 1.0)
    image = _map(axis, ratios, names, names, (SEQUENTIAL, 0.0, top))
    figure.colorbar(image, ax=axis, label="shared / expected by chance [ratio]", shrink=0.8)
    _tilt_labels(axis, 45)
    return figure


def cross_map(targets: Sequence[str], damage: Grid) -> Figure:
    """Draw dNLL by target removed (row) and target asked about (column) [nats per token]."""
    side = 2.2 + 0.62 * len(targets)
    figure, (axis,) = _panels(["Damage across knowledge graphs"], side + 1.2, side)
    image = _map(axis, damage, targets, targets, (SEQUENTIAL, 0.0, max(float(damage.max()), 1e-6)))
    axis.set_xlabel("facts asked about")
    axis.set_ylabel("subnetwork removed")
    _tilt_labels(axis, 30)
    figure.colorbar(image, ax=axis, label="NLL above the original's [nats per token]", shrink=0.8)
    return figure


def _tilt_labels(axis: Axes, degrees: int) -> None:
    axis.tick_params(axis="x", rotation=degrees)
    for label in axis.get_xticklabels():
        label.set_horizontalalignment("right")
        label.set_rotation_mode("anchor")


def _map(
    axis: Axes,
    grid: Grid,
    rows: Sequence[str],
    columns: Sequence[str],
    scale: tuple[str, float, float],
    shown: Grid | None = None,
) -> AxesImage:
    """Draw a grid in a scale (color map, low, high), each cell with its value if there is room."""
    color_map, low, high = scale
    image = axis.imshow(grid, cmap=color_map, vmin=low, vmax=high, aspect="auto")
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(rows)), [row.replace("_", " ") for row in rows])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=1.5)
    axis.tick_params(which="minor", length=0)
    if grid.size <= 150:
        for (row, column), value in np.ndenumerate(grid if shown is None else shown):
            if np.isfinite(value):
                red, green, blue, _ = image.cmap(image.norm(grid[row, column]))
                dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55  # relative luminance
                text = f"{value:.{2 - sum(abs(value) >= size for size in (10, 100))}f}"
                color = "white" if dark else "#222222"
                axis.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
    return image
