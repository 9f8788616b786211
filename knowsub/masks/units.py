"""Which weights share one gate: one logit per weight, neuron, head or whole matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from knowsub.anatomy import ATTENTION, Site
from knowsub.masks.kinds import Unit


@dataclass(frozen=True, slots=True)
class UnitSpan:
    """Where the gates of one site lie in the flat logit vector."""

    site: Site
    """The site."""
    start: int
    """Index of its first gate."""
    shape: tuple[int, ...]
    """Shape of its gates: `site.shape` with 1 on the axes that share a gate."""
    size: int
    """Number of its gates."""

    def take(self, flat: Tensor) -> Tensor:
        """Return the site's entries of a flat vector, shaped to broadcast against its weights."""
        return flat[self.start : self.start + self.size].view(self.shape)


def unit_shape(site: Site, unit: Unit) -> tuple[int, ...]:
    """Return the shape of a site's gates: its own shape, with 1 on the axes that share a gate.

    Args:
        site: A maskable matrix.
        unit: What one gate covers.

    Returns:
        A shape that broadcasts against `site.shape`.

    Raises:
        ValueError: If the unit is `head` and the site is not part of the attention.
    """
    if unit is Unit.HEAD and site.part not in ATTENTION:
        raise ValueError(f"unit head: site {site.name} has no heads; choose attention parts only")
    kept = {
        Unit.WEIGHT: frozenset(site.axes),
        Unit.INPUT: frozenset(site.input_axes),
        Unit.OUTPUT: frozenset(site.axes) - frozenset(site.input_axes),
        Unit.HEAD: frozenset({"head"}),
        Unit.MATRIX: frozenset[str](),
    }[unit]
    return tuple(
        size if axis in kept else 1 for axis, size in zip(site.axes, site.shape, strict=True)
    )


def lay_out(sites: tuple[Site, ...], unit: Unit) -> tuple[UnitSpan, ...]:
    """Return where the gates of every site lie in one flat vector.

    Sites of one block whose heads correspond share their head gates, so that a head is chosen as
    a whole; with grouped key-value heads the keys and values have gates of their own.

    Args:
        sites: The maskable matrices.
        unit: What one gate covers.

    Returns:
        One span per site, in order.

    Raises:
        ValueError: As in `unit_shape`.
    """
    spans: list[UnitSpan] = []
    shared: dict[tuple[int, int], int] = {}
    total = 0
    for site in sites:
        shape = unit_shape(site, unit)
        size = math.prod(shape)
        start = shared.setdefault((site.block, size), total) if unit is Unit.HEAD else total
        spans.append(UnitSpan(site, start, shape, size))
        total = max(total, start + size)
    return tuple(spans)
