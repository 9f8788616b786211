"""The maps of structure: what the stage `analyze` found, arranged in grids and drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from knowsub.anatomy import Part
from knowsub.plots.maps import Grid, density_map, head_map, overlap_map
from knowsub.plots.style import Figure
from knowsub.report.collect import Analysis, Item


def density(items: Sequence[Item], analysis: Analysis) -> Figure | None:
    """Return the density of every matrix by block and part, one map per target."""
    cells = _by_target(analysis, "cell")
    names = list(dict.fromkeys(name for groups in cells.values() for name in groups))
    split = [name.split(" ")[1:] for name in names]
    blocks = sorted({int(block) for block, _ in split})
    present = {part for _, part in split}
    parts = [str(part) for part in Part if part in present]
    grids = {
        target: np.array(
            [[groups.get(f"block {b} {p}", (np.nan, 1.0))[0] for b in blocks] for p in parts]
        )
        for target, groups in cells.items()
    }
    return density_map(grids, parts, [str(block) for block in blocks]) if grids else None


def heads(items: Sequence[Item], analysis: Analysis) -> Figure | None:
    """Return the density of every head over the mean, one map per target."""
    heads = _by_target(analysis, "head")
    names = [name.split(" ") for groups in heads.values() for name in groups]
    blocks = sorted({int(name[1]) for name in names})
    most = max((int(name[3]) for name in names), default=-1) + 1
    grids = {
        target: np.array(
            [
                [groups.get(f"block {b} head {h}", (0, np.nan))[1] for h in range(most)]
                for b in blocks
            ]
        )
        for target, groups in heads.items()
    }
    return head_map(grids, [f"block {block}" for block in blocks]) if grids else None


def _by_target(analysis: Analysis, level: str) -> dict[str, dict[str, tuple[float, float]]]:
    """Target -> group -> (density, enrichment), means over its seeds; groups in natural order."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for mask in analysis.get("structure", {}).get("masks", []):
        for group in mask["levels"].get(level, {}).get("groups", []):
            values = found.setdefault(mask["target"], {}).setdefault(group["name"], [])
            values.append((group["density"], group["enrichment"]))
    return {
        target: {
            name: (float(np.mean([v[0] for v in values])), float(np.mean([v[1] for v in values])))
            for name, values in groups.items()
        }
        for target, groups in found.items()
    }


def overlap(items: Sequence[Item], analysis: Analysis) -> Figure | None:
    """Return the map of weights shared by every pair of trained masks."""
    names = [item.name for item in items]
    ratios: Grid = np.full((len(names), len(names)), np.nan)
    for pair in analysis.get("overlap", {}).get("pairs", []):
        if pair["first"] in names and pair["second"] in names:
            place = names.index(pair["first"]), names.index(pair["second"])
            ratios[place] = ratios[place[::-1]] = pair["ratio"]
    return overlap_map(names, ratios) if np.isfinite(ratios).any() else None
