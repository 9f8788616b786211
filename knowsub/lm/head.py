"""From the states after the last block to logits: norm, projection, LM head, bias, scale, cap.

A model's own forward pass does more to its logits than multiply by a matrix, in some families.
All that computes logits, losses or gradients from states goes through `LMHead`.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from knowsub.architectures import architecture


class LMHead(nn.Module):
    """The LM head of a model: z = s (W h + b), or c tanh(s (W h + b) / c) if it has a soft cap.

    Args:
        linear: Holds the weights W and, if there is one, the bias b; shared with the model.
        scale: s.
        cap: c; None if there is none.
    """

    def __init__(self, linear: nn.Linear, scale: float = 1.0, cap: float | None = None) -> None:
        super().__init__()
        self.linear, self.scale, self.cap = linear, scale, cap

    @property
    def weight(self) -> Float[Tensor, "vocab hidden"]:
        """W."""
        return self.linear.weight

    @property
    def bias(self) -> Float[Tensor, " vocab"] | None:
        """b, or None."""
        return self.linear.bias

    def forward(
        self, states: Float[Tensor, "*position hidden"]
    ) -> Float[Tensor, "*position vocab"]:
        """Return the logits of final states."""
        logits: Tensor = self.linear(states)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.cap is not None:
            logits = torch.tanh(logits / self.cap) * self.cap
        return logits

    def chain_(self, grad: Tensor, logits: Tensor) -> Tensor:
        """Turn a gradient by the logits into that by W h + b, in place, and return it."""
        if self.cap is not None:
            grad.mul_(1 - (logits.to(grad.dtype) / self.cap).square())
        return grad if self.scale == 1.0 else grad.mul_(self.scale)


def lm_head(model: PreTrainedModel) -> LMHead:
    """Return the LM head of a model, whole or its upper part.

    Args:
        model: A Hugging Face decoder of a known architecture.

    Returns:
        The head; it shares its weights with the model.

    Raises:
        ValueError: If the architecture is unknown, or the model has no linear LM head.
    """
    row, config = architecture(model), model.config
    linear = model.get_output_embeddings()
    if not isinstance(linear, nn.Linear):
        raise ValueError(f"model type {config.model_type!r}: {type(linear).__name__} as LM head")
    scale = 1.0 if row.logit_scale is None else float(getattr(config, row.logit_scale))
    if row.logit_divisor is not None:
        scale /= float(getattr(config, row.logit_divisor))
    cap = None if row.logit_cap is None else getattr(config, row.logit_cap, None)
    if not math.isfinite(scale) or (cap is not None and cap <= 0):
        raise ValueError(f"model type {config.model_type!r}: logit scale {scale}, cap {cap}")
    return LMHead(linear, scale, cap)


def final_modules(model: nn.Module) -> list[nn.Module]:
    """Return what states pass after the last block and before the LM head, in order.

    That is the final norm and a projection, as far as the model has them.
    """
    row = architecture(model)
    found = [find_submodule(model, path) for path in (row.norm, *row.after)]
    return [module for module in found if module is not None]


def find_submodule(model: nn.Module, path: str) -> nn.Module | None:
    """Return the module at a path of a model's table row, or None if this model lacks it."""
    parent, _, name = path.rpartition(".")
    return cast("nn.Module | None", getattr(model.get_submodule(parent), name))
