"""One look for all pictures: colours told apart by everyone, sizes readable in print."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Figure

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
