"""Faster ways through the upper blocks: fused activations, packed sequences, the last MLP at target positions alone.

Whatever a model does at one position alone it does for all sequences laid one after another in one
row; attention alone takes them apart. What a small model costs on a GPU is the number of its
operations, and so every pass less is time saved.

Before a forward pass Hugging Face looks at the positions to see whether sequences share a row, for
which a GPU has to be waited for. Here it is known, and padding comes last, so that every attention
is plainly causal and torch's fused one is told so by a flag.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel
from transformers.activations import FastGELUActivation, NewGELUActivation
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from knowsub.architectures import ModuleType, architecture
from knowsub.lm.batch import Batch, flat_nonzero, to_device_of

Kind = TypeVar("Kind", bound=nn.Module)
FUSED: dict[type[nn.Module], Callable[[], nn.Module]] = {
    NewGELUActivation: lambda: nn.GELU(approximate="tanh"),
    FastGELUActivation: lambda: nn.GELU(approximate="tanh"),
}
"""Activation -> the module of torch that computes the same function, to rounding (2e-7 of it)."""


def fused_activations(module: Kind) -> Kind:
    """Return a module that computes the same with fused activation functions.

    A GPT-2 as it is on the hub has such activations; unfused they keep four more tensors for the
    way back.

    Args:
        module: A module of any kind; it is left as it is.

    Returns:
        A shallow copy that shares every parameter and every part without such an activation, so
        that weights replaced in one are replaced in both; the module itself where there is none.
    """
    parts = {
        name: FUSED[type(part)]() if type(part) in FUSED else fused_activations(part)
        for name, part in module.named_children()
    }
    if all(parts[name] is part for name, part in module.named_children()):
        return module
    twin = copy.copy(module)
    twin._modules = {**module._modules, **parts}
    return twin


NAME = "knowsub_packed"
"""Name of this attention; for one that it does not know Hugging Face makes no mask."""
PACKED_FUSED = "sdpa"
"""Hugging Face's name of torch's fused attention."""


def can_pack(model: PreTrainedModel, longest: int) -> PreTrainedModel | None:
    """Return a model that computes the same and reads several sequences in one row.

    Args:
        model: A Hugging Face decoder; it is left as it is.
        longest: Length of the longest sequence that it will read [tokens].

    Returns:
        A shallow copy that shares all parameters and makes no masks; None where its attention is
        not the fused one, or where a sliding window is shorter than the longest sequence.
    """
    config = model.config
    if config._attn_implementation != PACKED_FUSED or longest > (_window(config) or longest):
        return None
    AttentionInterface.register(NAME, varlen_attention)
    return _attending(model, {})


def last_hidden_varlen(
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
    hidden = [
        to_device_of(one.lower_states, place).flatten(0, 1)
        for one in batches
        if one.lower_states is not None
    ]
    positions = [torch.arange(one.tokens.shape[1]).repeat(len(one)) for one in batches]
    states: Tensor = model.base_model(
        inputs_embeds=torch.cat(hidden)[None],
        position_ids=to_device_of(torch.cat(positions)[None], place),
        packed=[tuple(one.tokens.shape) for one in batches],
        use_cache=False,
    ).last_hidden_state
    return states


def varlen_attention(
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


@contextmanager
def last_mlp_at_targets(
    model: PreTrainedModel, reads: Bool[Tensor, "*position"]
) -> Iterator[Int[Tensor, " read"]]:
    """Compute the last block's MLP at the read positions alone, within the block.

    No other position looks at them: what the model returns there is of no use.

    Args:
        model: A Hugging Face decoder of a known family, whole or its upper part.
        reads: The positions that are read of the sequences that run within the block, in their
            order, of any shape; on the CPU, so that no GPU is waited for.

    Yields:
        The read positions, counted through the batch row by row, where the model is.

    Raises:
        ValueError: If the architecture is unknown.
    """
    row, rows = architecture(model), to_device_of(flat_nonzero(reads), next(model.parameters()))
    last = list(model.get_submodule(row.blocks).children())[-1]

    shape = reads.shape

    def narrow(_: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
        nonlocal shape
        shape = args[0].shape[:-1]
        few: Tensor = args[0].flatten(0, -2).index_select(0, rows)
        return few

    def widen(_: nn.Module, __: tuple[Tensor, ...], told: Tensor) -> Tensor:
        everywhere = told.new_zeros(reads.numel(), told.shape[-1])
        everywhere.index_copy_(0, rows, told)
        return everywhere.view(*shape, -1)

    handles = []
    for matrix in row.matrices:
        part, linear = matrix.module_types[0], last.get_submodule(matrix.path)
        if part in (ModuleType.MLP_IN, ModuleType.MLP_GATE):
            handles.append(linear.register_forward_pre_hook(narrow))
        elif part is ModuleType.MLP_OUT:
            handles.append(linear.register_forward_hook(widen))
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()
