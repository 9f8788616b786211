"""How a step's passes through the upper blocks are computed: precision, backend, fused kernels.

Logits of gates, losses, gradients and the optimizer are float32 whatever precision is chosen.

Sequences of several widths can share one row ("varlen"): all operations but attention work on
single positions, and attention splits the row again. A small model's step on a GPU is bound by its
number of kernel launches, so each pass less is time saved. Padding comes last, so that attention
is plainly causal; Hugging Face would read the positions back from the GPU to find that out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel
from transformers.activations import FastGELUActivation, NewGELUActivation
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.pytorch_utils import Conv1D

from knowsub.architectures import ModuleType, architecture
from knowsub.discovery.options import Matmul, Precision
from knowsub.lm.batch import Batch, flat_nonzero, to_device_of
from knowsub.lm.blocks import last_hidden
from knowsub.lm.head import LMHead

Module = TypeVar("Module", bound=nn.Module)

# Precision and backend of matrix products


def matmul_autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return a block in which forward passes compute matrix products in a precision.

    Autocast casts each weight once per block; norms, softmax and residual sums stay float32.
    """
    if precision is Precision.FLOAT32:
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def cast_head(precision: Precision, head: LMHead) -> LMHead:
    """Return the LM head in a precision: itself, or a frozen copy, so that it is cast only once."""
    if precision is Precision.FLOAT32 or head.weight.dtype is torch.bfloat16:
        return head
    return copy.deepcopy(head).to(torch.bfloat16).requires_grad_(False)


def cast_frozen(
    precision: Precision, model: nn.Module, masked: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return name -> copy of the linear layers' unmasked parameters, so that they are cast once."""
    if precision is Precision.FLOAT32:
        return {}
    masked_ids = {id(parameter) for parameter in masked}
    return {
        f"{path}.{name}": parameter.to(torch.bfloat16)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        for name, parameter in module.named_parameters(recurse=False)
        if id(parameter) not in masked_ids
    }


@contextmanager
def matmul_backend(matmul: Matmul) -> Iterator[None]:
    """Compute float32 products on the CPU with a library within the block."""
    if matmul is Matmul.DEFAULT:
        yield
        return
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"  # lets oneDNN choose; without AMX it computes in float32
    try:
        yield
    finally:
        settings.fp32_precision = before


MAX_MATMUL_ERROR = 1e-5
"""Relative error above which a library's products do not count as float32 [fraction]."""


def require_exact(matmul: Matmul) -> None:
    """Raise a ValueError if a library's products are not those of float32 on this processor.

    Processors with AMX really compute in bfloat16 where oneDNN may choose.
    """
    if (error := matmul_error(matmul)) > MAX_MATMUL_ERROR:
        raise ValueError(
            f"train.matmul: value {matmul.value!r} is not allowed on this processor, its products "
            f"have a relative error of {error:.0e} (at most {MAX_MATMUL_ERROR:.0e}); use default"
        )


def matmul_error(matmul: Matmul) -> float:
    """Return the relative error of a library's float32 products on this processor [fraction]."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(256, 768, generator=generator)
    right = torch.randn(768, 512, generator=generator)
    with matmul_backend(matmul):
        product = left @ right
    expected = left.double() @ right.double()
    return float((product - expected).norm() / expected.norm())


# Fused activations

FUSED: dict[type[nn.Module], Callable[[], nn.Module]] = {
    NewGELUActivation: lambda: nn.GELU(approximate="tanh"),
    FastGELUActivation: lambda: nn.GELU(approximate="tanh"),
}
"""Activation -> torch's fused module for the same function, equal to rounding (2e-7 of it).
Unfused, as in GPT-2 from the hub, they keep four more tensors for the backward pass."""


def fused_activations(module: Module) -> Module:
    """Return a module that computes the same with fused activation functions.

    It is a shallow copy that shares every parameter and every submodule without such an
    activation, so that weights replaced in one are replaced in both; the module itself if it has
    none.
    """
    children = {
        name: FUSED[type(child)]() if type(child) in FUSED else fused_activations(child)
        for name, child in module.named_children()
    }
    if all(children[name] is child for name, child in module.named_children()):
        return module
    twin = copy.copy(module)
    twin._modules = {**module._modules, **children}
    return twin


# Sequences of several widths in one row

VARLEN = "knowsub_varlen"
"""Name of this attention; for a name that it does not know Hugging Face makes no mask."""


def can_pack(model: PreTrainedModel, max_length: int) -> PreTrainedModel | None:
    """Return a model that computes the same and reads several sequences in one row.

    It is a shallow copy that shares all parameters and makes no masks; None if the attention is
    not torch's fused one, a sliding window is shorter than `max_length` [tokens], or sequences in
    one row get other states: some blocks do not hand on to their attention what they are given.
    """
    config = model.config
    window = _sliding_window(config)
    if config._attn_implementation != "sdpa" or max_length > (window or max_length):
        return None
    AttentionInterface.register(VARLEN, varlen_attention)
    packed = _with_varlen_attention(model, {})
    return packed if _packs_exactly(model, packed) else None


MAX_PACKING_ERROR = 0.05
"""Relative difference above which states in one row count as others [fraction]; rounding, also to
bfloat16, stays below, attention to another sequence does not."""


@torch.no_grad()
def _packs_exactly(model: PreTrainedModel, packed: PreTrainedModel) -> bool:
    """Return whether a few sequences get the same states in one row as in rows of their own."""
    device_of, generator = next(model.parameters()), torch.Generator().manual_seed(0)
    if device_of.device.type == "meta":
        return True
    batches = [
        Batch(
            torch.zeros(shape, dtype=torch.long),
            torch.ones(shape, dtype=torch.bool),
            torch.randn(*shape, model.config.hidden_size, generator=generator).to(device_of.dtype),
        )
        for shape in ((2, 3), (1, 4))
    ]
    apart = torch.cat([last_hidden(model, batch).flatten(0, 1) for batch in batches])
    together = last_hidden_varlen(packed, batches)[0]
    return bool((together - apart).norm() <= MAX_PACKING_ERROR * apart.norm())


def last_hidden_varlen(
    model: PreTrainedModel, batches: Sequence[Batch]
) -> Float[Tensor, "1 token hidden"]:
    """Return the final-norm states of batches of several widths, one after another, row by row.

    The model is one of upper blocks from `can_pack`, the batches have their lower states.
    """
    device_of = next(model.parameters())
    lower_states = [
        to_device_of(batch.lower_states, device_of).flatten(0, 1)
        for batch in batches
        if batch.lower_states is not None
    ]
    positions = [torch.arange(batch.tokens.shape[1]).repeat(len(batch)) for batch in batches]
    states: Tensor = model.base_model(
        inputs_embeds=torch.cat(lower_states)[None],  # (1, token, hidden)
        position_ids=to_device_of(torch.cat(positions)[None], device_of),
        packed=[tuple(batch.tokens.shape) for batch in batches],
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
    **kwargs: Any,
) -> tuple[Float[Tensor, "batch position head dim"], None]:
    """Return causal attention within every sequence, by torch's fused kernels, and no weights.

    `packed` has the number and width of the sequences in the one row, batch by batch; it is None
    if every sequence has a row of its own. The rest is what Hugging Face gives an attention.
    """
    if packed is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    sizes = [rows * width for rows, width in packed]
    splits = [tensor[0].split(sizes, dim=1) for tensor in (query, key, value)]
    outputs = []
    for shape, *parts in zip(packed, *splits, strict=True):
        # (head, row * width, dim) -> (row, head, width, dim)
        q, k, v = (part.unflatten(1, shape).transpose(0, 1) for part in parts)
        outputs.append(sdpa_attention_forward(module, q, k, v, None, **kwargs)[0].flatten(0, 1))
    return torch.cat(outputs)[None], None


def _sliding_window(config: PreTrainedConfig) -> int | None:
    layer_types = getattr(config, "layer_types", None)
    if layer_types is not None and all(kind == "full_attention" for kind in layer_types):
        return None
    return getattr(config, "sliding_window", None)


def _with_varlen_attention(module: Module, configs: dict[int, PreTrainedConfig]) -> Module:
    """Return a shallow copy in which every submodule's configuration names this attention.

    Upper blocks hold the whole model's configuration, their model one of its own: one copy each.
    """
    twin = copy.copy(module)
    if isinstance(config := getattr(module, "config", None), PreTrainedConfig):
        varlen = configs.setdefault(id(config), copy.copy(config))
        varlen._attn_implementation = VARLEN
        twin.__dict__["config"] = varlen
    twin._modules = {
        name: None if child is None else _with_varlen_attention(child, configs)
        for name, child in module._modules.items()
    }
    return twin


# The forward pass of a step


def target_states(
    model: PreTrainedModel, *groups: Mapping[str, Batch], by_length: bool = False
) -> dict[str, Float[Tensor, "target hidden"]]:
    """Return the final states at the target positions of several batches, in one forward pass.

    Args:
        model: The upper blocks; from `can_pack` if there are several groups.
        *groups: Batches by name, with lower states unless the model is whole, the rest on the CPU.
            The batches of a group are padded on the right to one width. A batch may be empty, a
            group may not.
        by_length: Whether sequences of equal length are read together instead, without padding;
            the model is then one from `can_pack`.

    Returns:
        One tensor of states per batch, by name.

    Raises:
        ValueError: If some batches have lower states and others have not.
    """
    batches = {name: batch for group in groups for name, batch in group.items()}
    if len({batch.lower_states is None for batch in batches.values()}) > 1:
        raise ValueError("training batches need lower states, all of them or none")
    device_of = next(model.parameters())
    joined = [_join(list(group.values()), device_of) for group in groups]
    order: Tensor | None = None
    if by_length:
        joined, order = split_by_length(joined)
    target_mask = torch.cat([batch.target_mask.flatten() for batch in joined])
    with last_mlp_at_targets(model, target_mask) as targets:
        states = (
            last_hidden(model, joined[0])
            if len(joined) == 1 and not by_length
            else last_hidden_varlen(model, joined)
        )
    at_targets = states.flatten(0, 1).index_select(0, targets)  # (target, hidden)
    if order is not None:
        at_targets = at_targets.index_select(0, to_device_of(order, at_targets))
    counts = [int(batch.target_mask.sum()) for batch in batches.values()]
    return dict(zip(batches, at_targets.split(counts), strict=True))


def _join(batches: Sequence[Batch], device_of: Tensor) -> Batch:
    """Return batches as one, cut after the last target position, its lower states on a device."""
    width = max(int(batch.lengths.max()) for batch in batches if len(batch)) - 1
    padded = [batch.pad_to(width) for batch in batches]
    lower_states = [batch.lower_states for batch in padded if batch.lower_states is not None]
    return Batch(
        torch.cat([batch.tokens for batch in padded]),
        torch.cat([batch.target_mask for batch in padded]),
        torch.cat([to_device_of(s, device_of) for s in lower_states]) if lower_states else None,
    )


def split_by_length(
    batches: Sequence[Batch],
) -> tuple[list[Batch], Int[Tensor, " target"]]:
    """Return the sequences of batches in parts of equal length, which need no padding.

    Args:
        batches: The batches; the length of a sequence ends with its last target position.

    Returns:
        The parts, and the place that each target position of the batches, counted row by row, has
        among those of the parts.
    """
    parts, places, n_targets = [], [torch.zeros(0, dtype=torch.long)], 0
    for batch in batches:
        lengths, number = batch.lengths - 1, torch.zeros_like(batch.tokens)
        count = int(batch.target_mask.sum())
        number[batch.target_mask] = torch.arange(n_targets, n_targets + count)
        n_targets += count
        for length in lengths.unique().tolist():
            rows = flat_nonzero(lengths == length)
            parts.append(batch[rows].pad_to(length))
            places.append(number[rows, :length][parts[-1].target_mask])
    return parts, torch.cat(places).argsort()


@contextmanager
def last_mlp_at_targets(
    model: PreTrainedModel, target_mask: Bool[Tensor, "*position"]
) -> Iterator[Int[Tensor, " target"]]:
    """Compute the last block's MLP at the target positions alone, within the block.

    No other position attends to its output: what the model returns elsewhere is meaningless.

    Args:
        model: A Hugging Face decoder of a known architecture, whole or its upper blocks.
        target_mask: Target positions of the sequences that run within the block, in their order,
            of any shape; on the CPU, so that finding them does not wait for a GPU.

    Yields:
        The target positions, counted through the batch row by row, on the model's device.

    Raises:
        ValueError: If the architecture is unknown.
    """
    known = architecture(model)
    last_block = list(model.get_submodule(known.blocks).children())[-1]
    targets = to_device_of(flat_nonzero(target_mask), next(model.parameters()))
    shape: tuple[int, ...] = target_mask.shape

    def select(_: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        nonlocal shape
        shape = inputs[0].shape[:-1]
        selected: Tensor = inputs[0].flatten(0, -2).index_select(0, targets)
        return selected

    def scatter(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        everywhere = output.new_zeros(target_mask.numel(), output.shape[-1])
        everywhere.index_copy_(0, targets, output)
        return everywhere.view(*shape, -1)

    handles = []
    for matrix in known.matrices:
        linear = last_block.get_submodule(matrix.path)
        if matrix.module_types[0] in (ModuleType.MLP_IN, ModuleType.MLP_GATE):
            handles.append(linear.register_forward_pre_hook(select))
        elif matrix.module_types[0] is ModuleType.MLP_OUT:
            handles.append(linear.register_forward_hook(scatter))
    try:
        yield targets
    finally:
        for handle in handles:
            handle.remove()
