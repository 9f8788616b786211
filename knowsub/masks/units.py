"""Random masks of as many whole units as a mask has: neurons, attention heads, matrices.

A mask of whole neurons against as many scattered weights compares two things at once; the fair
control removes as many neurons.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from knowsub.architectures import MaskableMatrix
from knowsub.masks.ablation import masked_matrices
from knowsub.masks.mask import Mask, random_masks
from knowsub.masks.options import Granularity
from knowsub.masks.weights import GateSlice, gate_slices


def mask_granularity(mask: Mask) -> Granularity:
    """Return what one gate of a trained mask covered, by its header; weight where it says none."""
    options = json.loads(mask.meta.get("options", "{}"))
    return Granularity(options.get("granularity", Granularity.WEIGHT))


def matched_random_masks(
    mask: Mask, matrices: Sequence[MaskableMatrix], number: int, generator: torch.Generator
) -> Iterator[Mask]:
    """Yield random masks that remove as much as a mask does, in units of its granularity.

    Args:
        mask: The mask that is matched.
        matrices: The maskable matrices of its model.
        number: Masks wanted.
        generator: Source of randomness.

    Yields:
        Masks of as many weights in each matrix; or of as many neurons in each matrix, as many heads
        in each block (the same heads in all its matrices), as many matrices of each kind. All such
        masks are equally likely.

    Raises:
        ValueError: If the mask has a part of a unit, or a matrix that is not among them.
    """
    granularity = mask_granularity(mask)
    if granularity is Granularity.WEIGHT:
        yield from random_masks(mask, number, generator)
        return
    slices = gate_slices(masked_matrices(matrices, mask), granularity)
    members = {each.matrix.name: _whole_units(mask, each) for each in slices}
    for _ in range(number):
        yield _random_units(mask, slices, members, generator)


def _whole_units(mask: Mask, gates: GateSlice) -> Bool[Tensor, " unit"]:
    """Return which units of a matrix belong to the mask; ValueError if one does in part."""
    bits = mask.bits[gates.matrix.name]
    shared = [axis for axis, size in enumerate(gates.shape) if size == 1]
    every = bits.amin(dim=shared) if shared else bits
    some = bits.amax(dim=shared) if shared else bits
    if not torch.equal(every, some):
        raise ValueError(f"the mask has a part of a unit of matrix {gates.matrix.name}")
    return some.flatten()


def _random_units(
    mask: Mask,
    slices: Sequence[GateSlice],
    members: dict[str, Tensor],
    generator: torch.Generator,
) -> Mask:
    """Return one mask of as many units, drawn within each group of them."""
    groups: defaultdict[tuple[object, ...], list[GateSlice]] = defaultdict(list)
    for each in slices:
        kind = each.matrix.module_type, each.matrix.shape
        # a unit that is a matrix is drawn among the matrices of its kind; heads share their gates
        groups[kind if each.size == 1 else (each.start,)].append(each)
    bits = {}
    for group in groups.values():
        names = [each.matrix.name for each in group]
        alone = group[0].size == 1
        units = torch.cat([members[name] for name in names]) if alone else members[names[0]]
        drawn = torch.zeros_like(units)
        drawn[torch.randperm(len(units), generator=generator)[: int(units.sum())]] = True
        for index, each in enumerate(group):
            chosen = drawn[index : index + 1] if alone else drawn
            bits[each.matrix.name] = chosen.view(each.shape).expand(each.matrix.shape).contiguous()
    ordered = {name: bits[name] for name in mask.bits}
    return Mask(ordered, mask.model, {"method": "random"})
