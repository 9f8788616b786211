"""How the pictures are drawn: one look, curves, bars and maps."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec

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
COLOURS = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY, GREY)
"""Okabe and Ito's palette, told apart with every form of colour blindness."""

MARKERS = "osD^vPX"
"""One marker per colour, so that nothing hangs on colour alone."""

AMOUNTS, CONTRASTS = "cividis", "PuOr_r"
"""Colour maps: of amounts, and of deviations to both sides."""

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

Arguments = ParamSpec("Arguments")


def styled(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Return a drawing function that draws in the common style, whatever the caller's is.

    The layout is solved once, so that every format shows the same one and writing is fast.
    """

    @functools.wraps(draw)
    def drawn(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
            return figure

    return drawn


def panels(
    titles: Sequence[str], width: float, height: float, across: int = 3
) -> tuple[Figure, list[Axes]]:
    """Return a figure with one titled panel per name.

    Args:
        titles: Titles of the panels, at least one.
        width: Width of a panel [inches].
        height: Height of a panel [inches].
        across: Panels per row at most.

    Returns:
        The figure and its panels, row by row.
    """
    columns = min(across, len(titles))
    rows = -(-len(titles) // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    axes = [axis for row in grid for axis in row]
    for axis, title in zip(axes, titles, strict=False):
        axis.set_title(title)
    for axis in axes[len(titles) :]:
        axis.set_visible(False)
    return figure, axes[: len(titles)]


def appearances(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield colour, marker and label of each name, in order."""
    for index, name in enumerate(names):
        yield {
            "color": COLOURS[index % len(COLOURS)],
            "marker": MARKERS[index % len(MARKERS)],
            "label": name.replace("_", " "),
        }


def write_png(figure: Figure, path: Path, dpi: int) -> None:
    """Write a picture for DVC and MLflow; the same figure gives the same bytes.

    Args:
        figure: The picture.
        path: File to write; its folder must exist.
        dpi: Resolution [dots per inch].

    Raises:
        OSError: If the file cannot be written.
    """
    with mpl.rc_context(STYLE):
        figure.savefig(path, format="png", dpi=dpi, metadata={"Software": None})


def svg(figure: Figure) -> bytes:
    """Return a picture as SVG for the page; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


Points = Sequence[tuple[float, float]]
"""(x, y) in order of x."""


@dataclass(frozen=True)
class Course:
    """The training of one mask."""

    name: str
    """Its name, such as `seed 0`."""
    target_nll: Points
    """Step -> target NLL on validation prompts [nats per token]."""
    control_ratio: Points
    """Step -> control PPL ratio on validation facts."""
    density: Points
    """Step -> share of maskable weights in the mask [fraction]."""
    chosen: int
    """Step of the chosen checkpoint; 0 if unknown."""


@styled
def training_curves(courses: Mapping[str, Sequence[Course]]) -> Figure:
    """Return target, control and density over the steps, one column per target.

    Args:
        courses: Target -> one course per seed.

    Returns:
        The picture; a ring marks each chosen checkpoint.
    """
    figure = Figure(figsize=(2.9 * len(courses) + 0.4, 5.4), layout="constrained")
    grid = figure.subplots(3, len(courses), squeeze=False, sharex=True, sharey="row")
    names = list(dict.fromkeys(seed.name for seeds in courses.values() for seed in seeds))
    looks = dict(zip(names, appearances(names), strict=True))
    labels = ("target NLL\n[nats per token]", "control PPL\n[ratio to original]", "density\n[%]")
    for column, (target, seeds) in enumerate(courses.items()):
        for seed in seeds:
            density = [(step, 100 * value) for step, value in seed.density]
            for row, points in enumerate((seed.target_nll, seed.control_ratio, density)):
                _course(grid[row][column], points, seed.chosen, looks[seed.name])
        grid[0][column].set_title(target)
        grid[2][column].set_xlabel("optimiser step")
    for row, label in enumerate(labels):
        grid[row][0].set_ylabel(label)
    handles = [grid[0][0].plot([], [], color=looks[n]["color"], label=n)[0] for n in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(names), 8))
    return figure


def _course(axis: Axes, points: Points, chosen: int, look: Mapping[str, Any]) -> None:
    if not points:
        return
    colour = look["color"]
    steps, values = zip(*points, strict=True)
    axis.plot(steps, values, color=colour)
    axis.grid(axis="y")
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    nearest = min(points, key=lambda point: abs(point[0] - chosen))
    if chosen:
        axis.plot(*nearest, "o", markersize=7, markerfacecolor="none", color=colour, mew=1.8)


@styled
def tradeoff(methods: Mapping[str, Sequence[tuple[float, float, float]]]) -> Figure:
    """Return what the target loses against what the control loses, as masks grow.

    Args:
        methods: Method -> (size as a multiple of the trained mask, control damage, target damage
            [nats per token]) from the smallest mask to the largest.

    Returns:
        The picture; better is up and to the left. A ring marks the trained mask's size.
    """
    figure, (axis,) = panels(["Target lost against control lost"], 5.6, 3.9)
    for (name, points), look in zip(methods.items(), appearances(list(methods)), strict=True):
        sizes, across, up = zip(*points, strict=True)
        wide = 2.4 if name == "trained" else 1.3
        if 1.0 in sizes:
            place = across[sizes.index(1.0)], up[sizes.index(1.0)]
            axis.plot(*place, "o", markersize=9, markerfacecolor="none", color=look["color"])
        axis.plot(across, up, linewidth=wide, zorder=3 if name == "trained" else 2, **look)
    harm = [point[1] for points in methods.values() for point in points]
    axis.set_xscale("symlog", linthresh=0.01)
    axis.set_xlim(min(0.0, *harm) - 0.002, max(0.05, *harm) * 1.3)
    axis.set_xlabel("control: NLL above the original's [nats per token]")
    axis.set_ylabel("target: NLL above the original's [nats per token]")
    axis.axvline(0, color=GREY, linewidth=0.6)
    axis.grid(axis="y")
    corner: dict[str, Any] = {
        "transform": axis.transAxes,
        "va": "top",
        "color": GREY,
        "style": "italic",
    }
    axis.text(0.02, 0.98, "↖ better", **corner)
    figure.legend(loc="outside right center")
    return figure


@styled
def recovery_curves(panes: Mapping[str, Mapping[str, Points]], xlabel: str, ylabel: str) -> Figure:
    """Return how models recover as they are finetuned, one panel per adaptation.

    Args:
        panes: Title -> model -> points over the steps [%].
        xlabel: What the steps are.
        ylabel: What is measured, with its unit.

    Returns:
        The picture.
    """
    names = list(dict.fromkeys(name for models in panes.values() for name in models))
    looks = dict(zip(names, appearances(names), strict=True))
    figure, axes = panels(list(panes), 2.9, 2.5)
    for axis, models in zip(axes, panes.values(), strict=True):
        for name, points in models.items():
            axis.plot(*zip(*points, strict=True), **looks[name])
        axis.grid(axis="y")
        axis.set_ylim(0, 104)
        axis.set_xlabel(xlabel)
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes[0].set_ylabel(ylabel)
    handles = [axes[0].plot([], [], **looks[name])[0] for name in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(names))
    return figure


@styled
def fact_bars(facts: Mapping[str, Sequence[tuple[str, float, float]]]) -> Figure:
    """Return every target fact's tail NLL before and after, one panel per target.

    Args:
        facts: Target -> (fact, NLL under the original, NLL under the remaining model)
            [nats per token].

    Returns:
        The picture, facts in order of the loss.
    """
    most = max(len(rows) for rows in facts.values())
    figure, axes = panels(list(facts), 3.6, 1.2 + 0.17 * most)
    for axis, rows in zip(axes, facts.values(), strict=True):
        ordered = sorted(rows, key=lambda row: row[2])
        places = range(len(ordered))
        axis.barh(places, [row[2] for row in ordered], 0.72, color=RED, label="remaining model")
        axis.barh(places, [row[1] for row in ordered], 0.36, color=BLUE, label="original model")
        axis.set_yticks(places, [row[0] for row in ordered], fontsize=6.5)
        axis.set_ylim(-0.7, most - 0.3)
        axis.tick_params(axis="y", length=0)
        axis.set_xlabel("NLL of the tail [nats per token]")
        axis.grid(axis="x")
        axis.set_axisbelow(True)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2)
    return figure


Grid = npt.NDArray[np.float64]
"""Values by row and column; NaN where there is none."""

MOST_NUMBERS = 150
"""Cells of one map that are still labelled with their value."""


@styled
def density_map(
    densities: Mapping[str, Grid], parts: Sequence[str], blocks: Sequence[str]
) -> Figure:
    """Return the density of every matrix, one panel per target.

    Args:
        densities: Target -> density by part and block [fraction].
        parts: Names of the rows.
        blocks: Names of the columns.

    Returns:
        The picture.
    """
    figure, axes = panels(
        list(densities), 1.5 + 0.42 * max(3, len(blocks)), 0.9 + 0.32 * len(parts)
    )
    top = max(float(np.nanmax(grid)) for grid in densities.values()) * 100
    for axis, grid in zip(axes, densities.values(), strict=True):
        image = _map(axis, grid * 100, parts, blocks, (AMOUNTS, 0.0, top))
        axis.set_xlabel("block")
    figure.colorbar(image, ax=axes, label="weights in the subnetwork [%]", shrink=0.9)
    return figure


@styled
def head_map(heads: Mapping[str, Grid], blocks: Sequence[str]) -> Figure:
    """Return how over- or under-represented every attention head is, one panel per target.

    Args:
        heads: Target -> density of the head over the mean of all heads, by block and head.
        blocks: Names of the rows.

    Returns:
        The picture.
    """
    width = max(grid.shape[1] for grid in heads.values())
    figure, axes = panels(list(heads), 1.5 + 0.42 * max(3, width), 1.1 + 0.36 * len(blocks))
    logs = {name: np.log2(np.maximum(grid, 1 / 16)) for name, grid in heads.items()}
    reach = max(0.5, *(float(np.nanmax(np.abs(grid))) for grid in logs.values()))
    for axis, grid in zip(axes, logs.values(), strict=True):
        columns = [str(head) for head in range(grid.shape[1])]
        image = _map(axis, grid, blocks, columns, (CONTRASTS, -reach, reach), shown=2**grid)
        axis.set_xlabel("head")
    label = "log2 of density\nover the mean"
    figure.colorbar(image, ax=axes, label=label, shrink=0.9)
    return figure


@styled
def overlap_map(names: Sequence[str], ratios: Grid) -> Figure:
    """Return weights in common over their expectation by chance, for every pair of masks.

    Args:
        names: Names of the masks.
        ratios: Shared weights over expected shared weights, by mask and mask; NaN on the diagonal.

    Returns:
        The picture.
    """
    side = 2.2 + 0.5 * len(names)
    figure, (axis,) = panels(["Weights in common over chance"], side + 1.0, side)
    known = ratios[np.isfinite(ratios)]
    top = float(known.max()) if known.size else 1.0
    image = _map(axis, ratios, names, names, (AMOUNTS, 0.0, max(top, 1.0)))
    figure.colorbar(image, ax=axis, label="shared / expected by chance [ratio]", shrink=0.8)
    axis.tick_params(axis="x", rotation=45)
    for label in axis.get_xticklabels():
        label.set_horizontalalignment("right")
        label.set_rotation_mode("anchor")
    return figure


@styled
def cross_map(targets: Sequence[str], damage: Grid) -> Figure:
    """Return what removing each target's subnetwork costs every target KG.

    Args:
        targets: The targets.
        damage: NLL above the original's, by target removed and target asked [nats per token].

    Returns:
        The picture.
    """
    side = 2.2 + 0.62 * len(targets)
    figure, (axis,) = panels(["Damage across knowledge graphs"], side + 1.2, side)
    image = _map(axis, damage, targets, targets, (AMOUNTS, 0.0, max(float(damage.max()), 1e-6)))
    axis.set_xlabel("facts asked")
    axis.set_ylabel("subnetwork removed")
    axis.tick_params(axis="x", rotation=30)
    for label in axis.get_xticklabels():
        label.set_horizontalalignment("right")
        label.set_rotation_mode("anchor")
    figure.colorbar(image, ax=axis, label="NLL above the original's [nats per token]", shrink=0.8)
    return figure


def _map(
    axis: Axes,
    grid: Grid,
    rows: Sequence[str],
    columns: Sequence[str],
    scale: tuple[str, float, float],
    shown: Grid | None = None,
) -> AxesImage:
    colours, low, high = scale
    image = axis.imshow(grid, cmap=colours, vmin=low, vmax=high, aspect="auto")
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(rows)), [row.replace("_", " ") for row in rows])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=1.5)
    axis.tick_params(which="minor", length=0)
    if grid.size <= MOST_NUMBERS:
        _label(axis, image, grid if shown is None else shown, grid)
    return image


def _label(axis: Axes, image: AxesImage, shown: Grid, grid: Grid) -> None:
    for (row, column), value in np.ndenumerate(shown):
        if np.isfinite(value):
            red, green, blue, _ = image.cmap(image.norm(grid[row, column]))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
            digits = 2 - sum(abs(value) >= size for size in (10, 100))
            text = f"{value:.{digits}f}"
            colour = "white" if dark else "#222222"
            axis.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
