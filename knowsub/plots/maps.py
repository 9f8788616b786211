"""Pictures in which colour is an amount: densities, heads, overlaps and damage across targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from knowsub.plots.style import AMOUNTS, CONTRASTS, panels, styled

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
