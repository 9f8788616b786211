"""The frozen blocks below the first masked one, computed once; the blocks above, on their own.

Mask training and every evaluation of a mask change only the upper blocks, so the states that
enter them are computed once per sequence. No forward pass is written again: both halves are
shallow copies of the Hugging Face model that share its blocks and parameters.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from knowsub.architectures import Architecture, architecture, block_count, upper_half
from knowsub.lm.batch import Batch, to_device_of
from knowsub.lm.head import find_submodule, lm_head
from knowsub.lm.nf4 import drop_quantized
from knowsub.progress import with_progress

Allocate = Callable[[Sequence[int], Tensor], Tensor]
"""Shape, and a tensor of the dtype and device -> a tensor of that shape to write into."""


def in_memory(size: Sequence[int], like: Tensor) -> Tensor:
    """Return a new tensor of a shape, of another one's dtype and device, its values undefined."""
    return like.new_empty(tuple(size))


def upper_blocks(model: PreTrainedModel, first: int) -> PreTrainedModel:
    """Return a model of the same class that holds the blocks from `first` on.

    It takes the states that enter block `first` as `inputs_embeds` and shares blocks, parameters,
    final norm and LM head with the original, so that weights replaced in one are replaced in both.

    Args:
        model: A Hugging Face decoder of a known architecture.
        first: 0-based index of the first block kept; -1 for the input embedding too.

    Returns:
        The upper part; its final hidden states equal the whole model's. It is the model itself
        where the embedding is kept, and reads tokens.

    Raises:
        ValueError: If the architecture is unknown or the block does not exist.
    """
    if first < 0:
        return model
    row = architecture(model)
    upper = _with_blocks(model, row, range(first, block_count(model)))
    _drop_modules(upper, row.before)
    if row.input_scale is not None:
        path, _, name = row.input_scale.rpartition(".")
        setattr(upper.get_submodule(path), name, 1.0)
    if row.positions is not None:  # added by the lower blocks already
        zeros = copy.copy(upper.get_submodule(row.positions))
        weight = torch.zeros_like(zeros.get_parameter("weight"))
        zeros._parameters = {"weight": nn.Parameter(weight, requires_grad=False)}
        upper.set_submodule(row.positions, zeros)
    return upper


def lower_blocks(model: PreTrainedModel, first: int) -> PreTrainedModel:
    """Return a model of the same class whose last hidden states are those entering block `first`.

    What follows its last block is the identity. ValueError as in `upper_blocks`.
    """
    row = architecture(model)
    lower = _with_blocks(model, row, range(first))
    _drop_modules(lower, (row.norm, *row.after))
    return lower


def _drop_modules(part: PreTrainedModel, paths: Sequence[str]) -> None:
    """Replace those of a model's modules that it has by the identity."""
    for path in paths:
        if find_submodule(part, path) is not None:
            part.set_submodule(path, nn.Identity())


def drop_lower(model: PreTrainedModel, first: int) -> None:
    """Free the parameters of the blocks below `first`, for good: only the upper part can run."""
    for block in list(model.get_submodule(architecture(model).blocks).children())[: max(0, first)]:
        drop_quantized(block)
        block.to("meta")


def _with_blocks(model: PreTrainedModel, row: Architecture, indices: range) -> PreTrainedModel:
    """Return a copy of a model with some of its blocks that shares blocks and parameters."""
    total = block_count(model)
    if not 0 <= indices.start <= indices.stop <= total:
        raise ValueError(f"blocks {indices.start} to {indices.stop} of a model with {total}")
    blocks = list(model.get_submodule(row.blocks).children())
    # What the memo holds already is not copied.
    memo: dict[int, object] = {id(block): block for block in blocks}
    memo |= {id(parameter): parameter for parameter in model.parameters()}
    part = copy.deepcopy(model, memo)
    part.set_submodule(row.blocks, nn.ModuleList([blocks[index] for index in indices]))
    part.config.num_hidden_layers = len(indices)
    if getattr(part.config, "layer_types", None):
        part.config.layer_types = [part.config.layer_types[index] for index in indices]
    return part


def sharing_copy(model: PreTrainedModel, own: Collection[str]) -> PreTrainedModel:
    """Return a copy of a model with memory of its own for some parameters alone, all frozen.

    The others are views of the original's, which must not be written to.
    """
    memo: dict[int, object] = {}  # what it holds already is not copied
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():  # quantized: nothing can train it
            memo[id(parameter)] = parameter
            continue
        values = parameter.detach()
        memo[id(parameter)] = nn.Parameter(values.clone() if name in own else values, False)
    return copy.deepcopy(model, memo)


def activation_checkpointed(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model whose blocks recompute their activations in the backward pass.

    It shares all parameters with `model`, whole or upper part; gradients are equal bit for bit.
    """
    row = architecture(model)
    part = _with_blocks(model, row, range(block_count(model)))
    blocks = [copy.copy(block) for block in part.get_submodule(row.blocks).children()]
    for block in blocks[:-1]:  # the last one's activations are needed at once
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    part.set_submodule(row.blocks, nn.ModuleList(blocks))
    return part


def last_hidden(model: PreTrainedModel, batch: Batch) -> Float[Tensor, "batch position hidden"]:
    """Return the final-norm states of a batch, which the LM head reads, on the model's device.

    Args:
        model: The whole model, or its upper part if the batch has cached lower states.
        batch: The sequences, on any device.

    Returns:
        The states at every position.
    """
    weight = next(model.parameters())
    inputs = (
        {"input_ids": to_device_of(batch.tokens, weight)}
        if batch.lower_states is None
        else {"inputs_embeds": to_device_of(batch.lower_states, weight)}
    )
    states: Tensor = model.base_model(**inputs, use_cache=False).last_hidden_state
    return states


@torch.no_grad()
def cache_lower_states(
    model: PreTrainedModel,
    first: int,
    batch: Batch,
    rows: int = 256,
    allocate: Allocate = in_memory,
) -> Batch:
    """Return a batch with the states that enter block `first`, computed `rows` sequences at a time.

    Args:
        model: The whole model.
        first: 0-based index of the first masked block; -1 if the embedding is masked as well, so
            that there is nothing to cache.
        batch: Sequences without cached states, at least one.
        rows: Sequences per forward pass.
        allocate: Where the states go.

    Returns:
        The same sequences with `lower_states`, or the batch itself.

    Raises:
        ValueError: As in `lower_blocks`.
    """
    if first < 0:
        return batch
    lower, states = lower_blocks(model, first), None
    for part in with_progress(list(batch.microbatch_slices(rows)), "states of the lower blocks"):
        part_states = last_hidden(lower, batch[part])
        if states is None:
            states = allocate((len(batch), *part_states.shape[1:]), part_states)
        states[part] = part_states
    assert states is not None, "a batch has at least one sequence"
    return batch.with_lower_states(states)


PROBE_TOKENS = 8


@torch.no_grad()
def cut_error(model: PreTrainedModel) -> float:
    """Return how much a model cut in the middle differs from its own forward pass.

    All that this program computes goes around `model.forward`: lower blocks, upper blocks, LM head.
    What an architecture does elsewhere (scaled or capped logits, projections) would be lost.

    Args:
        model: The model.

    Returns:
        Largest difference of the logits of a few tokens, over their largest magnitude [fraction];
        NaN if the model's own logits are not finite.

    Raises:
        ValueError: As in `upper_blocks` and `lm_head`.
    """
    rows = model.get_input_embeddings().get_parameter("weight").shape[0]
    # Spread over the vocabulary; the first ids are special tokens, the last may be padding rows.
    tokens = (torch.arange(1, PROBE_TOKENS + 1) * rows // (PROBE_TOKENS + 2))[None]
    batch, first = Batch(tokens, torch.ones_like(tokens, dtype=torch.bool)), upper_half(model).start
    expected = model(input_ids=tokens.to(model.device), use_cache=False).logits.float()
    joined = last_hidden(upper_blocks(model, first), cache_lower_states(model, first, batch))
    logits = lm_head(model)(joined).float()
    return float((logits - expected).abs().max() / expected.abs().max())
