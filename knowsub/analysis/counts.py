"""How many weights of a mask lie in each head, neuron and matrix."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool
from torch import Tensor

from knowsub.architectures import ATTENTION, MaskableMatrix, ModuleType
from knowsub.masks.mask import Mask
from knowsub.masks.options import Granularity
from knowsub.masks.weights import gate_shape

Counts = npt.NDArray[np.int64]
"""Whole numbers of weights."""


Values = npt.NDArray[np.float64]
"""Real numbers, one per group, head or neuron."""


SITE_NAME = re.compile(r"^blocks\.(\d+)\.(\w+)$")


def unit_counts(bits: Bool[Tensor, ...], site: MaskableMatrix, unit: Granularity) -> Counts:
    """Return the number of a mask's weights in each unit of one site.

    Args:
        bits: The mask's bits of the site, of shape `site.shape`.
        site: The site.
        unit: What is counted by: input or output neuron, head, matrix.

    Returns:
        One count per unit, in storage order.

    Raises:
        ValueError: If the unit is `head` and the site is not part of the attention.
    """
    kept = gate_shape(site, unit)
    shared = [axis for axis, size in enumerate(kept) if size != bits.shape[axis]]
    counts = np.count_nonzero(bits.numpy(), axis=tuple(shared)) if shared else bits.numpy()
    return np.asarray(counts, dtype=np.int64).reshape(-1)


def implied_matrices(mask: Mask) -> tuple[MaskableMatrix, ...]:
    """Return the sites of a mask, told from its site names and shapes alone.

    A hidden size is at least the number of heads and at least the size of a head, and an MLP is at
    least as wide as its input; so the long end of a shape is the hidden axis of an attention
    matrix, and the MLP's inner axis. A square MLP matrix is read as `in, out`.

    Args:
        mask: Any mask.

    Returns:
        Sites without a parameter name: good for counting, not for removing.

    Raises:
        ValueError: If a site's name is not of the form `blocks.3.q`.
    """
    found = [_implied(name, tuple(bits.shape)) for name, bits in mask.bits.items()]
    return tuple(
        sorted(found, key=lambda site: (site.block, list(ModuleType).index(site.module_type)))
    )


def _implied(name: str, shape: tuple[int, ...]) -> MaskableMatrix:
    match = SITE_NAME.match(name)
    if match is None or match[2] not in frozenset(ModuleType):
        raise ValueError(f"site {name!r} is not of the form 'blocks.<number>.<part>'")
    part = ModuleType(match[2])
    if part in ATTENTION and len(shape) == 3:
        hidden = "out" if part is ModuleType.OUTPUT else "in"
        axes: tuple[str, ...] = (
            (hidden, "head", "dim") if shape[0] >= shape[2] else ("head", "dim", hidden)
        )
    else:
        narrow_first = shape[0] <= shape[-1]
        axes = ("in", "out") if narrow_first != (part is ModuleType.MLP_OUT) else ("out", "in")
        axes = ("in", "out") if shape[0] == shape[-1] else axes
    return MaskableMatrix(name, "", int(match[1]), part, shape, None, axes)


def head_counts(mask: Mask, sites: Sequence[MaskableMatrix]) -> dict[str, tuple[str, int, int]]:
    """Return the weights and the mask's weights of every attention head.

    The query, key, value and output slices of one head belong together; where key-value heads are
    shared by several query heads, they are heads of their own.

    Args:
        mask: The mask.
        sites: Its sites.

    Returns:
        Name such as `block 3 head 1` -> (kind `head` or `kv head`, weights, weights of the mask).
    """
    full = {
        site.block: _heads(site)
        for site in sites
        if site.module_type in (ModuleType.Q, ModuleType.OUTPUT)
    }
    found: dict[str, tuple[str, int, int]] = {}
    for site in sites:
        if "head" not in site.axes:
            continue
        kind = "head" if _heads(site) == full.get(site.block, _heads(site)) else "kv head"
        counts = unit_counts(mask.bits[site.name], site, Granularity.HEAD)
        for head, count in enumerate(counts):
            name = f"block {site.block} {kind} {head}"
            _, weights, members = found.get(name, (kind, 0, 0))
            found[name] = (kind, weights + site.size // len(counts), members + int(count))
    return found


def _heads(site: MaskableMatrix) -> int:
    return site.shape[site.axes.index("head")]
