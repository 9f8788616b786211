"""Pictures of courses: training, size against damage, and recovery by finetuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from knowsub.plots.style import BLUE, GREY, RED, appearances, panels, styled

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
