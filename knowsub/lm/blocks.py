"""The frozen blocks below the first masked one, computed once; the blocks above, on their own.

Mask training and every evaluation of a mask change only the upper blocks, so the states that
enter them are computed once per sequence. No forward pass is written again: both halves are
shallow copies of the Hugging Face model that share its blocks and parameters.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from knowsub.architectures import Architecture, architecture, block_count
from knowsub.lm.batch import Batch, to_device_of

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
        first: 0-based index of the first block kept.

    Returns:
        The upper part; its final hidden states equal the whole model's.

    Raises:
        ValueError: If the architecture is unknown or the block does not exist.
    """
    row = architecture(model)
    upper = _with_blocks(model, row, range(first, block_count(model)))
    if row.positions is not None:  # added by the lower blocks already
        zeros = copy.copy(upper.get_submodule(row.positions))
        weight = torch.zeros_like(zeros.get_parameter("weight"))
        zeros._parameters = {"weight": nn.Parameter(weight, requires_grad=False)}
        upper.set_submodule(row.positions, zeros)
    return upper


def lower_blocks(model: PreTrainedModel, first: int) -> PreTrainedModel:
    """Return a model of the same class whose last hidden states are those entering block `first`.

    Its final norm is the identity. ValueError as in `upper_blocks`.
    """
    row = architecture(model)
    lower = _with_blocks(model, row, range(first))
    lower.set_submodule(row.norm, nn.Identity())
    return lower


def drop_lower(model: PreTrainedModel, first: int) -> None:
    """Free the parameters of the blocks below `first`, for good: only the upper part can run."""
    for block in list(model.get_submodule(architecture(model).blocks).children())[:first]:
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
        first: 0-based index of the first masked block.
        batch: Sequences without cached states, at least one.
        rows: Sequences per forward pass.
        allocate: Where the states go.

    Returns:
        The same sequences with `lower_states`.

    Raises:
        ValueError: As in `lower_blocks`.
    """
    lower, states = lower_blocks(model, first), None
    for part in batch.microbatch_slices(rows):
        part_states = last_hidden(lower, batch[part])
        if states is None:
            states = allocate((len(batch), *part_states.shape[1:]), part_states)
        states[part] = part_states
    assert states is not None, "a batch has at least one sequence"
    return batch.with_lower_states(states)
