"""Sequences of several widths in one pass, and no mask that fused attention does not need.

Whatever a model does at one position alone it does for all sequences laid one after another in one
row; attention alone takes them apart. What a small model costs on a GPU is the number of its
operations, and so every pass less is time saved.

Before a forward pass Hugging Face looks at the positions to see whether sequences share a row, for
which a GPU has to be waited for. Here it is known, and padding comes last, so that every attention
is plainly causal and torch's fused one is told so by a flag.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from knowsub.lm.encode import Batch
from knowsub.lm.placing import beside

NAME = "knowsub_packed"
"""Name of this attention; for one that it does not know Hugging Face makes no mask."""
FUSED = "sdpa"
"""Hugging Face's name of torch's fused attention."""

Kind = TypeVar("Kind", bound=nn.Module)


def packable(model: PreTrainedModel, longest: int) -> PreTrainedModel | None:
    """Return a model that computes the same and reads several sequences in one row.

    Args:
        model: A Hugging Face decoder; it is left as it is.
        longest: Length of the longest sequence that it will read [tokens].

    Returns:
        A shallow copy that shares all parameters and makes no masks; None where its attention is
        not the fused one, or where a sliding window is shorter than the longest sequence.
    """
    config = model.config
    if config._attn_implementation != FUSED or longest > (_window(config) or longest):
        return None
    AttentionInterface.register(NAME, packed_attention)
    return _attending(model, {})


def last_packed(
    model: PreTrainedModel, batches: Sequence[Batch]
) -> Float[Tensor, "1 token hidden"]:
    """Return the final-norm states of batches of several widths, from one pass.

    Args:
        model: From `packable`, of upper blocks.
        batches: Sequences with their trunk states.

    Returns:
        States of one batch after another, row by row.
    """
    place = next(model.parameters())
    hidden = [beside(one.hidden, place).flatten(0, 1) for one in batches if one.hidden is not None]
    positions = [torch.arange(one.tokens.shape[1]).repeat(len(one)) for one in batches]
    states: Tensor = model.base_model(
        inputs_embeds=torch.cat(hidden)[None],
        position_ids=beside(torch.cat(positions)[None], place),
        packed=[tuple(one.tokens.shape) for one in batches],
        use_cache=False,
    ).last_hidden_state
    return states


def packed_attention(
    module: nn.Module,
    query: Float[Tensor, "batch head position dim"],
    key: Float[Tensor, "batch kv position dim"],
    value: Float[Tensor, "batch kv position dim"],
    attention_mask: Tensor | None,
    packed: Sequence[tuple[int, int]] | None = None,
    **given: Any,
) -> tuple[Float[Tensor, "batch position head dim"], None]:
    """Return causal attention within every sequence, by torch's fused kernels.

    Args:
        module: The attention that asks.
        query: Queries.
        key: Keys.
        value: Values.
        attention_mask: None, since none was made.
        packed: Number and width of the sequences that share the one row, kind by kind; None where
            every sequence has a row of its own.
        **given: Scale and the like, as Hugging Face gives them.

    Returns:
        What each position attends to, and no weights.
    """
    if packed is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **given)
    sizes = [rows * width for rows, width in packed]
    apart = [one[0].split(sizes, dim=1) for one in (query, key, value)]
    told = []
    for shape, *parts in zip(packed, *apart, strict=True):
        q, k, v = (one.unflatten(1, shape).transpose(0, 1) for one in parts)
        told.append(sdpa_attention_forward(module, q, k, v, None, **given)[0].flatten(0, 1))
    return torch.cat(told)[None], None


def _window(config: PreTrainedConfig) -> int | None:
    """Return the width of the attention's sliding window; None if no block has one."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and all(kind == "full_attention" for kind in kinds):
        return None
    return getattr(config, "sliding_window", None)


def _attending(module: Kind, made: dict[int, PreTrainedConfig]) -> Kind:
    """Return a module whose parts are all configured for this attention.

    Upper blocks have the configuration of the whole model, and their model one of its own.
    """
    twin = copy.copy(module)
    if isinstance(own := getattr(module, "config", None), PreTrainedConfig):
        new = made.setdefault(id(own), copy.copy(own))
        new._attn_implementation = NAME
        twin.__dict__["config"] = new
    twin._modules = {
        name: None if part is None else _attending(part, made)
        for name, part in module._modules.items()
    }
    return twin
