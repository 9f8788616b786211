"""What parts and combinations of masks do: remove them, and see what target and control lose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from knowsub.analysis.bench import Bench, Sets
from knowsub.anatomy import Site
from knowsub.masks.algebra import difference, floral, grow, intersection, shrink, union
from knowsub.masks.mask import Mask


def parts_of(mask: Mask, sites: Sequence[Site]) -> dict[str, Mask]:
    """Return the parts of a mask that lie in one block, and those in one type of matrix.

    Args:
        mask: The mask.
        sites: Sites of its model.

    Returns:
        `whole`, then `block 2`, ..., then `q`, ... -> the part as a mask.
    """
    covered = [site for site in sites if site.name in mask.bits]
    groups: dict[str, list[str]] = {}
    labels: list[Callable[[Site], str]] = [lambda s: f"block {s.block}", lambda s: str(s.part)]
    for label in labels:
        for site in covered:
            groups.setdefault(label(site), []).append(site.name)
    parts = {
        name: Mask({site: mask.bits[site] for site in members}, mask.model)
        for name, members in groups.items()
    }
    return {"whole": mask} | parts


def combinations_of(masks: Sequence[Mask]) -> dict[str, Mask]:
    """Return what the masks of one target's seeds have in common and apart.

    Args:
        masks: One mask per seed.

    Returns:
        `union`, `shared core` (in all), `floral` (in at least two, from three masks on) and
        `first alone` (in the first and no other); nothing for a single mask.
    """
    if len(masks) < 2:
        return {}
    combined = {"union": union(*masks), "shared core": intersection(*masks)}
    if len(masks) > 2:
        combined["floral"] = floral(*masks)
    return combined | {"first alone": difference(*masks)}


def resized(mask: Mask, share: float, generator: torch.Generator) -> Mask:
    """Return a random part of a mask, or the mask with random weights added, per site.

    Args:
        mask: The mask.
        share: Size wanted over the mask's size [fraction]; above 1 it grows.
        generator: Source of randomness.

    Returns:
        The mask of that size.
    """
    if share > 1:
        return grow(mask, share - 1, generator)
    return shrink(mask, 1 - share, generator) if share < 1 else mask


def part_figures(bench: Bench, masks: Mapping[str, Mask], sets: Sets) -> list[dict[str, Any]]:
    """Return what removing each of several masks does to one target KG and its control.

    Args:
        bench: The bench.
        masks: Name -> mask.
        sets: The target KG's statements.

    Returns:
        Rows of `name`, `weights`, `target_dnll` and `control_dnll` [nats per tail token].
    """
    rows = []
    for name, mask in masks.items():
        lost = bench.damage(mask, [sets.target, sets.control])
        figures = {"target_dnll": lost[sets.target], "control_dnll": lost[sets.control]}
        rows.append({"name": name, "weights": mask.size} | figures)
    return rows
