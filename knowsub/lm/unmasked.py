"""Fused attention without the mask that it does not need.

Before a forward pass Hugging Face looks at the positions to see whether several sequences share a
row, which a GPU has to be waited for. Training sequences never do, and padding comes last, so that
every attention is plainly causal and torch's fused one is told so by a flag.
"""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "sdpa_causal"
"""Name of the fused attention for which, as for none that it does not know, no mask is made."""
FUSED = "sdpa"
"""Hugging Face's name of torch's fused attention."""

Kind = TypeVar("Kind", bound=nn.Module)


def unmasked(model: PreTrainedModel, longest: int) -> PreTrainedModel:
    """Return a model that computes the same for whole sequences and makes no mask for it.

    Args:
        model: A Hugging Face decoder; it is left as it is.
        longest: Length of the longest sequence that it will read [tokens].

    Returns:
        A shallow copy that shares all parameters; the model itself where its attention is not the
        fused one, or where a sliding window is shorter than that.
    """
    config = model.config
    if config._attn_implementation != FUSED or longest > (_window(config) or longest):
        return model
    AttentionInterface.register(NAME, sdpa_attention_forward)
    plain = copy.copy(config)
    plain._attn_implementation = NAME
    return _configured(model, config, plain)


def _window(config: PreTrainedConfig) -> int | None:
    """Return the width of the attention's sliding window; None if no block has one."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and all(kind == "full_attention" for kind in kinds):
        return None
    return getattr(config, "sliding_window", None)


def _configured(module: Kind, old: PreTrainedConfig, new: PreTrainedConfig) -> Kind:
    """Return a module whose parts have another configuration in place of one."""
    twin = copy.copy(module)
    if getattr(twin, "config", None) is old:
        twin.config = new
    twin._modules = {
        name: None if part is None else _configured(part, old, new)
        for name, part in module._modules.items()
    }
    return twin
