"""Masked weights: weights multiplied by gates, and the exact gradients by the gates.

No layer is replaced. A training step writes the remaining model's weights into trainable copies of
the parameters, which the model computes with; as soon as a copy receives its gradient, that
gradient is carried on to the gates and dropped, so that there is never more than one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from knowsub.architectures import ATTENTION, MaskableMatrix
from knowsub.masks.ablation import ParameterSwap
from knowsub.masks.options import Granularity


@runtime_checkable
class Sliceable(Protocol):
    """A value for every gate: a tensor, or what makes the tensor of a slice when it is read."""

    def __getitem__(self, part: Any, /) -> Tensor:
        """Return the values of some gates."""


@dataclass(frozen=True, slots=True)
class GateSlice:
    """Where the gates of one matrix lie in the flat vector of gates."""

    matrix: MaskableMatrix
    """The matrix."""
    start: int
    """Index of its first gate."""
    shape: tuple[int, ...]
    """Shape of its gates: `matrix.shape` with 1 on the axes that share a gate."""
    size: int
    """Number of its gates."""

    @property
    def part(self) -> slice:
        """Its gates in the flat vector."""
        return slice(self.start, self.start + self.size)

    def take(self, flat: Sliceable) -> Tensor:
        """Return the matrix's entries of a flat vector, shaped to broadcast with its weights."""
        return flat[self.part].view(self.shape)


def gate_shape(matrix: MaskableMatrix, granularity: Granularity) -> tuple[int, ...]:
    """Return the shape of a matrix's gates: `matrix.shape` with 1 on the axes that share a gate.

    ValueError if a gate covers an attention head and the matrix is not of the attention.
    """
    if granularity is Granularity.HEAD and matrix.module_type not in ATTENTION:
        raise ValueError(
            f"granularity head: matrix {matrix.name} has no heads; choose attention modules only"
        )
    axes, inputs = frozenset(matrix.axes), frozenset(matrix.input_axes)
    gated_axes = {
        Granularity.WEIGHT: axes,
        Granularity.INPUT: inputs,
        Granularity.OUTPUT: axes - inputs,
        Granularity.HEAD: frozenset({"head"}),
        Granularity.MATRIX: frozenset[str](),
    }[granularity]
    sizes = zip(matrix.axes, matrix.shape, strict=True)
    return tuple(size if axis in gated_axes else 1 for axis, size in sizes)


def gate_slices(
    matrices: Sequence[MaskableMatrix], granularity: Granularity
) -> tuple[GateSlice, ...]:
    """Return where the gates of every matrix lie in one flat vector (errors: `gate_shape`).

    The matrices of a block share their head gates, so that an attention head is chosen as a whole;
    with grouped key-value heads the keys and values have gates of their own.
    """
    slices: list[GateSlice] = []
    head_starts: dict[tuple[int, int], int] = {}  # (block, number of heads) -> first gate
    total = 0
    for matrix in matrices:
        shape = gate_shape(matrix, granularity)
        size, start = math.prod(shape), total
        if granularity is Granularity.HEAD:
            start = head_starts.setdefault((matrix.block, size), total)
        slices.append(GateSlice(matrix, start, shape, size))
        total = max(total, start + size)
    return tuple(slices)


@dataclass(frozen=True, slots=True)
class FusedSlice:
    """Matrices of one parameter that are multiplied by their gates in one operation."""

    slices: tuple[GateSlice, ...]
    """One matrix; or all that are fused in the parameter, each weight with its own gate."""
    rows: tuple[int, int] | None = None
    """(start, number) of the rows of one matrix, None if all of them."""

    def view(self, parameter: Tensor) -> Tensor:
        """Return the matrices' part of their parameter, sharing memory."""
        matrix = self.slices[0].matrix
        if len(self.slices) > 1:
            return parameter.view(matrix.view_shape)
        whole = matrix.view(parameter)
        return whole if self.rows is None else whole.narrow(0, *self.rows)

    def take(self, flat: Sliceable) -> Tensor:
        """Return the matrices' entries of a flat vector, shaped to broadcast with `view`."""
        first, count = self.slices[0], len(self.slices)
        if count == 1 or first.matrix.select is None:
            return first.take(flat)
        # The gates are (qkv, *matrix); the parameter has its qkv axis somewhere in between.
        gates = flat[first.start : first.start + count * first.size].view(count, *first.shape)
        return gates.movedim(0, first.matrix.select[0])

    def add_product(self, left: Tensor, right: Tensor, sign: float, flat: Tensor) -> None:
        """Add `sign` * left * right, of the shape of `view`, to the entries of a flat vector.

        Products of weights that share a gate are summed.
        """
        total = self.take(flat)
        if total.shape == left.shape:
            total.addcmul_(left, right, value=sign)
        else:
            product = left.to(total.dtype) * right
            total.add_(product.sum_to_size(total.shape), alpha=sign)


def fuse_slices(slices: Sequence[GateSlice]) -> list[FusedSlice]:
    """Return the slices of one parameter, fused into one where they fill it one after another."""
    first = slices[0]
    if first.matrix.select is not None and first.shape == first.matrix.shape:
        axis, view_shape = first.matrix.select[0], first.matrix.view_shape
        layout = [(each.matrix.view_shape, each.matrix.select, each.start) for each in slices]
        fused_layout = [
            (view_shape, (axis, index), first.start + index * first.size)
            for index in range(view_shape[axis])
        ]
        if layout == fused_layout:
            return [FusedSlice(tuple(slices))]
    return [FusedSlice((each,)) for each in slices]


def split_rows(matrix: GateSlice, limit: int) -> list[FusedSlice]:
    """Return a matrix whose weights have their own gates, cut into rows of at most `limit` gates.

    A row is an entry of the first axis; one that is larger than the limit is not cut.
    """
    total, *row = matrix.shape
    width = math.prod(row)
    step = max(1, limit // width)
    pieces = []
    for first in range(0, total, step):
        count = min(step, total - first)
        start = matrix.start + first * width
        gates = GateSlice(matrix.matrix, start, (count, *row), count * width)
        pieces.append(FusedSlice((gates,), (first, count)))
    return pieces


def local_part(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor that is divided over processes, else the tensor."""
    found: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return found


GateGradReceiver = Callable[[FusedSlice, Tensor, Tensor], None]
"""Takes where some gates lie, the gradient by their remaining weights, and the original weights."""


class MaskedWeights:
    """Trainable copies of the parameters that hold a maskable matrix.

    Of a parameter that is divided over processes (a `DTensor`) there is no copy: the weights are
    written into the process's part of it, until the model has computed with them.

    Args:
        model: The original model; it is read, never written.
        slices: Where the gates of every matrix lie.
        dtype: Of the copies; None for the parameters' own.
        piece: Most gates that are worked on at a time, each weight with its own; None for all of a
            parameter.
    """

    def __init__(
        self,
        model: nn.Module,
        slices: Sequence[GateSlice],
        dtype: torch.dtype | None = None,
        piece: int | None = None,
    ) -> None:
        names = dict.fromkeys(each.matrix.parameter for each in slices)
        originals: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}
        self._restored: list[tuple[Tensor, Tensor]] = []  # part of a parameter, original weights
        for name in names:
            parameter = model.get_parameter(name)
            own = local_part(parameter.detach())
            divided = hasattr(parameter, "to_local")
            originals[name] = own.clone() if divided else own
            copied = parameter if divided else own.to(dtype or own.dtype, copy=True)
            self.weights[name] = copied.requires_grad_()
            self._restored += [(own, originals[name])] if divided else []
        self.per_weight_gates = all(each.shape == each.matrix.shape for each in slices)
        self.exact = all(own.dtype == originals[name].dtype for name, own in self.weights.items())
        self._swap = ParameterSwap(model, self.weights)
        self._sign = -1.0  # d weight / d gate, in units of the original weight
        # parameter -> (where its gates lie, original weights, masked weights), both as views
        self._views: dict[str, list[tuple[FusedSlice, Tensor, Tensor]]] = {}
        for name, weight in self.weights.items():
            held = [each for each in slices if each.matrix.parameter == name]
            fused = (
                fuse_slices(held)
                if piece is None
                else [part for each in held for part in split_rows(each, piece)]
            )
            masked = local_part(weight.detach())  # shares memory; written to outside the graph
            self._views[name] = [(f, f.view(originals[name]), f.view(masked)) for f in fused]

    def pieces(self) -> list[FusedSlice]:
        """Return what is worked on at a time, parameter by parameter."""
        return [fused for views in self._views.values() for fused, _, _ in views]

    @torch.no_grad()
    def write(self, gates: Sliceable, *, keep: bool = False) -> None:
        """Write the weights of the remaining model, or of the subnetwork alone.

        Args:
            gates: Values of the gates, from `Gates.sample` or `Gates.hard_mask`.
            keep: If true, the subnetwork is kept: weights are multiplied by the gate instead of
                one minus the gate.
        """
        self._sign = 1.0 if keep else -1.0
        for views in self._views.values():
            for fused, original, masked in views:
                gate = fused.take(gates).to(original.dtype)
                if keep:
                    torch.mul(original, gate, out=masked)
                else:  # w - w g in one pass over memory
                    torch.addcmul(original, original, gate, value=-1.0, out=masked)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model compute with what was written, within the block."""
        try:
            with self._swap.applied():
                yield
        finally:
            with torch.no_grad():
                for own, original in self._restored:
                    own.copy_(original)

    @contextmanager
    def accumulate_gate_grads(
        self, into: Float[Tensor, " gate"], *, in_place: bool = False
    ) -> Iterator[None]:
        """Carry gradients that arrive at the masked weights within the block on to the gates.

        Args:
            into: The gradient of the loss by the gates' values is added to it.
            in_place: If true, `into` is multiplied by that gradient instead, which saves a second
                vector. Every weight needs its own gate, and there may be one backward pass only.

        Yields:
            Nothing.
        """

        def add(fused: FusedSlice, grad: Tensor, original: Tensor) -> None:
            if in_place:
                fused.take(into).mul_(grad).mul_(original)
            else:
                fused.add_product(grad, original, self._sign, into)

        with self.gate_grads(add):
            yield
            if in_place:
                into.mul_(self._sign)

    @contextmanager
    def gate_grads(self, receive: GateGradReceiver) -> Iterator[None]:
        """Hand on gradients as soon as they arrive at the masked weights within the block.

        Args:
            receive: Takes them piece by piece; they are freed afterwards.

        Yields:
            Nothing.
        """
        hooks = [
            weight.register_post_accumulate_grad_hook(partial(self._carry, name, receive))
            for name, weight in self.weights.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:  # a hook left in place would keep the masked weights alive
                hook.remove()

    @torch.no_grad()
    def _carry(self, name: str, receive: GateGradReceiver, weight: Tensor) -> None:
        """Hand on the gradient of one parameter, and free it."""
        grad, weight.grad = weight.grad, None
        assert grad is not None, "the hook runs after a gradient has arrived"
        for fused, original, _ in self._views[name]:
            receive(fused, fused.view(local_part(grad)), original)
