"""Gates and weights that are multiplied by one operation: a site, or all sites of a parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from knowsub.masks.units import UnitSpan


@dataclass(frozen=True, slots=True)
class Patch:
    """Sites of one parameter that lie one after another in the flat vector of gates."""

    spans: tuple[UnitSpan, ...]
    """One site; or all those that are fused in the parameter, each weight with its own gate."""

    def view(self, parameter: Tensor) -> Tensor:
        """Return the sites' part of their parameter, sharing memory; see `Site.view`."""
        site = self.spans[0].site
        return parameter.view(site.layout) if len(self.spans) > 1 else site.view(parameter)

    def take(self, flat: Tensor) -> Tensor:
        """Return the sites' entries of a flat vector, shaped to broadcast against `view`."""
        first = self.spans[0]
        if len(self.spans) == 1 or first.site.select is None:
            return first.take(flat)
        shape = (len(self.spans), *first.shape)
        whole = flat[first.start : first.start + len(self.spans) * first.size]
        return whole.view(shape).movedim(0, first.site.select[0])

    def add_product(self, left: Tensor, right: Tensor, sign: float, flat: Tensor) -> None:
        """Add the product of two tensors of the shape of `view`, times a sign, to a flat vector.

        Products of weights that share a gate are summed.
        """
        total = self.take(flat)
        if total.shape == left.shape:
            total.addcmul_(left, right, value=sign)
        else:
            product = left.to(total.dtype) * right
            total.add_(product.sum_to_size(total.shape), alpha=sign)


def lay_patches(spans: Sequence[UnitSpan]) -> list[Patch]:
    """Return the patches of one parameter.

    Args:
        spans: Its sites, in order.

    Returns:
        One patch if they fill the parameter and follow one another, a patch per site otherwise.
    """
    first = spans[0]
    if first.site.select is not None and first.shape == first.site.shape:
        axis = first.site.select[0]
        places = [(span.site.layout, span.site.select, span.start - first.start) for span in spans]
        if places == [
            (first.site.layout, (axis, index), index * first.size)
            for index in range(first.site.layout[axis])
        ]:
            return [Patch(tuple(spans))]
    return [Patch((span,)) for span in spans]
