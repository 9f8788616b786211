"""Weights multiplied by gates, and the exact gradients that arrive at the gates.

A step writes the remaining model's weights here and lets the model compute with them; a gradient
is carried on to the gates as soon as it arrives, and dropped: there is never more than one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from knowsub.architectures import ATTENTION, MaskableMatrix
from knowsub.masks.ablation import ParameterSwap
from knowsub.masks.options import Granularity


@dataclass(frozen=True, slots=True)
class GateSlice:
    """Where the gates of one site lie in the flat logit vector."""

    matrix: MaskableMatrix
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


def gate_shape(site: MaskableMatrix, unit: Granularity) -> tuple[int, ...]:
    """Return the shape of a site's gates: its own shape, with 1 on the axes that share a gate.

    Args:
        site: A maskable matrix.
        unit: What one gate covers.

    Returns:
        A shape that broadcasts against `site.shape`.

    Raises:
        ValueError: If the unit is `head` and the site is not part of the attention.
    """
    if unit is Granularity.HEAD and site.module_type not in ATTENTION:
        raise ValueError(f"unit head: site {site.name} has no heads; choose attention parts only")
    kept = {
        Granularity.WEIGHT: frozenset(site.axes),
        Granularity.INPUT: frozenset(site.input_axes),
        Granularity.OUTPUT: frozenset(site.axes) - frozenset(site.input_axes),
        Granularity.HEAD: frozenset({"head"}),
        Granularity.MATRIX: frozenset[str](),
    }[unit]
    return tuple(
        size if axis in kept else 1 for axis, size in zip(site.axes, site.shape, strict=True)
    )


def gate_slices(sites: tuple[MaskableMatrix, ...], unit: Granularity) -> tuple[GateSlice, ...]:
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
    spans: list[GateSlice] = []
    shared: dict[tuple[int, int], int] = {}
    total = 0
    for site in sites:
        shape = gate_shape(site, unit)
        size = math.prod(shape)
        start = shared.setdefault((site.block, size), total) if unit is Granularity.HEAD else total
        spans.append(GateSlice(site, start, shape, size))
        total = max(total, start + size)
    return tuple(spans)


@dataclass(frozen=True, slots=True)
class FusedSlice:
    """Sites of one parameter that lie one after another in the flat vector of gates."""

    slices: tuple[GateSlice, ...]
    """One site; or all those that are fused in the parameter, each weight with its own gate."""

    def view(self, parameter: Tensor) -> Tensor:
        """Return the sites' part of their parameter, sharing memory; see `Site.view`."""
        site = self.slices[0].matrix
        return parameter.view(site.view_shape) if len(self.slices) > 1 else site.view(parameter)

    def take(self, flat: Tensor) -> Tensor:
        """Return the sites' entries of a flat vector, shaped to broadcast against `view`."""
        first = self.slices[0]
        if len(self.slices) == 1 or first.matrix.select is None:
            return first.take(flat)
        shape = (len(self.slices), *first.shape)
        whole = flat[first.start : first.start + len(self.slices) * first.size]
        return whole.view(shape).movedim(0, first.matrix.select[0])

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


def fuse_slices(spans: Sequence[GateSlice]) -> list[FusedSlice]:
    """Return the patches of one parameter.

    Args:
        spans: Its sites, in order.

    Returns:
        One patch if they fill the parameter and follow one another, a patch per site otherwise.
    """
    first = spans[0]
    if first.matrix.select is not None and first.shape == first.matrix.shape:
        axis = first.matrix.select[0]
        places = [
            (span.matrix.view_shape, span.matrix.select, span.start - first.start) for span in spans
        ]
        if places == [
            (first.matrix.view_shape, (axis, index), index * first.size)
            for index in range(first.matrix.view_shape[axis])
        ]:
            return [FusedSlice(tuple(spans))]
    return [FusedSlice((span,)) for span in spans]


class MaskedWeights:
    """Trainable copies of the parameters that hold a site.

    Args:
        model: The original model; it is read, never written.
        spans: Where the gates of every site lie.
        dtype: Of the copies; None for the parameters' own.
    """

    def __init__(
        self, model: nn.Module, spans: Sequence[GateSlice], dtype: torch.dtype | None = None
    ) -> None:
        names = dict.fromkeys(span.matrix.parameter for span in spans)
        own = {name: model.get_parameter(name).detach() for name in names}
        self.weights = {
            name: weight.to(dtype or weight.dtype, copy=True).requires_grad_()
            for name, weight in own.items()
        }
        self._place = ParameterSwap(model, self.weights)
        self.own_gates = all(span.shape == span.matrix.shape for span in spans)
        self._patches: dict[str, list[tuple[FusedSlice, Tensor, Tensor]]] = {}
        self._sign = -1.0
        for name, weight in self.weights.items():
            held = fuse_slices([span for span in spans if span.matrix.parameter == name])
            out = weight.detach()
            self._patches[name] = [(each, each.view(own[name]), each.view(out)) for each in held]

    @torch.no_grad()
    def write(
        self, values: Float[Tensor, " unit"] | Bool[Tensor, " unit"], *, keep: bool = False
    ) -> None:
        """Write the weights of the remaining model, or of the subnetwork alone.

        Args:
            values: Values of the gates, from a sample or `open_bits`.
            keep: If true, the subnetwork is kept: weights are multiplied by the gate and not by
                one minus the gate.
        """
        self._sign = 1.0 if keep else -1.0
        for patch, own, out in chain.from_iterable(self._patches.values()):
            value = patch.take(values).to(own.dtype)
            if keep:
                torch.mul(own, value, out=out)
            else:
                torch.addcmul(own, own, value, value=-1.0, out=out)

    def applied(self) -> AbstractContextManager[None]:
        """Return a block in which the model computes with what was written."""
        return self._place.applied()

    @contextmanager
    def accumulate_gate_grads(
        self, into: Float[Tensor, " unit"], *, once: bool = False
    ) -> Iterator[None]:
        """Carry on what arrives at the buffers within the block.

        Args:
            into: The gradient of the loss by the gates' values is added to it.
            once: If true, it is multiplied with that gradient instead, so that no other vector is
                needed. Every weight has to have a gate of its own, and one backward pass to come.

        Yields:
            Nothing.
        """
        hooks = [
            weight.register_post_accumulate_grad_hook(partial(self._arrive, name, into, once))
            for name, weight in self.weights.items()
        ]
        try:
            yield
            if once:
                into.mul_(self._sign)
        finally:
            for hook in hooks:  # one that stayed would keep the buffers for good
                hook.remove()

    @torch.no_grad()
    def _arrive(self, name: str, into: Tensor, once: bool, buffer: Tensor) -> None:
        arrived, buffer.grad = buffer.grad, None
        assert arrived is not None, "the hook runs after a gradient has arrived"
        for patch, own, _ in self._patches[name]:
            if once:
                patch.take(into).mul_(patch.view(arrived)).mul_(own)
            else:
                patch.add_product(patch.view(arrived), own, self._sign, into)
