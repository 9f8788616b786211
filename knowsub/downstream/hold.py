"""Holding removed weights at zero while a model is finetuned.

With `hold`, a removed weight is exactly zero at every step and afterwards:

- head only: no weight of the model changes at all;
- full: its gradient is set to zero before the optimiser sees it, and the weight is set to zero
  after every optimiser step, whatever the optimiser does with momentum or decay;
- LoRA: the update that a pair of low-rank matrices stands for touches every weight of its matrix,
  the removed ones too. Its entries at removed weights are taken out of every forward pass, so the
  model that is trained and judged is the one whose merged weight is `W + delta * (1 - m)`. Merging
  writes just that: removed weights stay zero, and merged and adapted model agree.

With `free`, none of this happens: weights start at zero and may be learned again, by LoRA as well.
That is the question of relearning itself, and it is asked separately.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from knowsub.anatomy import Site
from knowsub.masks.mask import Mask


def removed_bits(model: nn.Module, sites: Sequence[Site], mask: Mask) -> dict[str, Tensor]:
    """Return which weights of each stored parameter a mask removes.

    Args:
        model: The model.
        sites: The model's matrices; the mask's sites must be among them.
        mask: The mask.

    Returns:
        Parameter name -> boolean tensor of the parameter's shape, True = removed.

    Raises:
        ValueError: If the mask names a site that the model lacks.
    """
    known = {site.name: site for site in sites}
    bits: dict[str, Tensor] = {}
    for name, own in mask.bits.items():
        if name not in known:
            raise ValueError(f"the mask has site {name!r}, which the model lacks")
        site = known[name]
        shape = model.get_parameter(site.parameter).shape
        whole = bits.setdefault(site.parameter, torch.zeros(shape, dtype=torch.bool))
        site.view(whole).copy_(own)
    return bits


class Hold:
    """Sets chosen weights of a model to zero and keeps them there.

    Args:
        model: The model, before LoRA layers are put in.
        removed: Parameter name -> boolean tensor, True = held at zero; empty holds nothing.
    """

    def __init__(self, model: nn.Module, removed: Mapping[str, Tensor]) -> None:
        named = {name: model.get_parameter(name) for name in removed}
        self._held = [(named[name], bits.to(named[name].device)) for name, bits in removed.items()]
        self.weights()

    def bits(self, parameter: Tensor) -> Tensor | None:
        """Return which weights of a parameter are held, or None."""
        return next((bits for own, bits in self._held if own is parameter), None)

    @torch.no_grad()
    def gradients(self) -> None:
        """Set the gradients of the held weights to zero; to be called before every clipping."""
        for parameter, bits in self._held:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(bits, 0.0)

    @torch.no_grad()
    def weights(self) -> None:
        """Set the held weights to zero; to be called after every optimiser step."""
        for parameter, bits in self._held:
            parameter.masked_fill_(bits, 0.0)

    def check(self) -> None:
        """Make sure that every held weight is zero.

        Raises:
            RuntimeError: If one is not; finetuning stops rather than report a wrong figure.
        """
        for parameter, bits in self._held:
            if bool((parameter.detach()[bits] != 0).any()):
                raise RuntimeError("a removed weight is not zero")
