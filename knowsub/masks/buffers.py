"""Weights that the gates are multiplied into, and the gradients that arrive there.

A step writes the remaining model's weights here and lets the model compute with them; a gradient
is carried on to the gates as soon as it arrives, and dropped: there is never more than one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import chain

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from knowsub.masks.patches import Patch, lay_patches
from knowsub.masks.removal import Replacement
from knowsub.masks.units import UnitSpan


class Buffers:
    """Trainable copies of the parameters that hold a site.

    Args:
        model: The original model; it is read, never written.
        spans: Where the gates of every site lie.
        dtype: Of the copies; None for the parameters' own.
    """

    def __init__(
        self, model: nn.Module, spans: Sequence[UnitSpan], dtype: torch.dtype | None = None
    ) -> None:
        names = dict.fromkeys(span.site.parameter for span in spans)
        own = {name: model.get_parameter(name).detach() for name in names}
        self.weights = {
            name: weight.to(dtype or weight.dtype, copy=True).requires_grad_()
            for name, weight in own.items()
        }
        self._place = Replacement(model, self.weights)
        self.own_gates = all(span.shape == span.site.shape for span in spans)
        self._patches: dict[str, list[tuple[Patch, Tensor, Tensor]]] = {}
        self._sign = -1.0
        for name, weight in self.weights.items():
            held = lay_patches([span for span in spans if span.site.parameter == name])
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

    def installed(self) -> AbstractContextManager[None]:
        """Return a block in which the model computes with what was written."""
        return self._place.installed()

    @contextmanager
    def gathering(self, into: Float[Tensor, " unit"], *, once: bool = False) -> Iterator[None]:
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
