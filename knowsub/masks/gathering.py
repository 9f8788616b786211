"""Gradients of gates, taken off the weights while the backward pass goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from knowsub.masks.units import UnitSpan


@contextmanager
def gathering(
    spans: Sequence[UnitSpan],
    original: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    total: Float[Tensor, " unit"],
) -> Iterator[None]:
    """Add the gradient by the factors of the weights to a vector, within the block.

    A gradient is used as soon as it arrives at a buffer, and dropped: there is never more than one
    at a time.

    Args:
        spans: Where the gates of every site lie in the vector.
        original: Parameter name -> the weights that the factors multiply.
        buffers: Parameter name -> the products, leaves of the graph.
        total: Gradient of the loss by the factors; added to.

    Yields:
        Nothing.
    """
    held: dict[str, list[UnitSpan]] = {name: [] for name in buffers}
    for span in spans:
        held[span.site.parameter].append(span)

    @torch.no_grad()
    def gather(name: str, buffer: Tensor) -> None:
        arrived, buffer.grad = buffer.grad, None
        assert arrived is not None, "the hook runs after a gradient has arrived"
        for span in held[name]:
            own = span.site.view(original[name])
            span.add_product(span.site.view(arrived), own, total)

    hooks = [
        buffer.register_post_accumulate_grad_hook(partial(gather, name))
        for name, buffer in buffers.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
