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
    """Return a new tensor of a shape beside another one, of its dtype, its values undefined."""
    return like.new_empty(tuple(size))


def upper_blocks(model: PreTrainedModel, first: int) -> PreTrainedModel:
    """Return a model of the same class that holds the blocks from `first` on.

    It takes the states that enter block `first` as `inputs_embeds` and shares blocks, parameters,
    final norm and LM head with the original, so that weights replaced in one are replaced in both.

    Args:
        model: A Hugging Face decoder of a known family.
        first: 0-based index of the first block kept.

    Returns:
        The upper part; its final hidden states equal the whole model's.

    Raises:
        ValueError: If the architecture is unknown or the block does not exist.
    """
    row = architecture(model)
    upper = _with_blocks(model, row, range(first, block_count(model)))
    if row.positions is not None:
        silent = copy.copy(upper.get_submodule(row.positions))
        silent._parameters = {
            "weight": nn.Parameter(torch.zeros_like(silent.get_parameter("weight")), False)
        }
        upper.set_submodule(row.positions, silent)
    return upper


def lower_blocks(model: PreTrainedModel, first: int) -> PreTrainedModel:
    """Return a model of the same class whose last hidden states are those entering block `first`.

    Args:
        model: A Hugging Face decoder of a known family.
        first: 0-based index of the first block left out.

    Returns:
        The lower part, its final norm replaced by the identity.

    Raises:
        ValueError: If the architecture is unknown or the block does not exist.
    """
    row = architecture(model)
    lower = _with_blocks(model, row, range(first))
    lower.set_submodule(row.norm, nn.Identity())
    return lower


def drop_lower(model: PreTrainedModel, first: int) -> None:
    """Free the parameters of the blocks below `first`, for good.

    Args:
        model: A Hugging Face decoder of a known family. It cannot run as a whole any more; its
            upper part can.
        first: 0-based index of the first block kept.

    Raises:
        ValueError: If the architecture is unknown.
    """
    for block in list(model.get_submodule(architecture(model).blocks).children())[:first]:
        block.to("meta")


def _with_blocks(model: PreTrainedModel, row: Architecture, kept: range) -> PreTrainedModel:
    total = block_count(model)
    if not 0 <= kept.start <= kept.stop <= total:
        raise ValueError(f"blocks {kept.start} to {kept.stop} of a model with {total}")
    blocks = list(model.get_submodule(row.blocks).children())
    memo: dict[int, object] = {id(block): block for block in blocks}
    memo |= {id(parameter): parameter for parameter in model.parameters()}
    part = copy.deepcopy(model, memo)
    part.set_submodule(row.blocks, nn.ModuleList([blocks[index] for index in kept]))
    part.config.num_hidden_layers = len(kept)
    if getattr(part.config, "layer_types", None):
        part.config.layer_types = [part.config.layer_types[index] for index in kept]
    return part


def activation_checkpointed(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model whose blocks keep no activations but compute them again on the way back.

    The last block keeps its own: they are needed as soon as the way back begins.

    Args:
        model: A Hugging Face decoder of a known family, whole or its upper part.

    Returns:
        A model that shares all parameters with it; its gradients are the same, bit for bit.

    Raises:
        ValueError: If the architecture is unknown.
    """
    row = architecture(model)
    part = _with_blocks(model, row, range(block_count(model)))
    blocks = [copy.copy(block) for block in part.get_submodule(row.blocks).children()]
    for block in blocks[:-1]:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    part.set_submodule(row.blocks, nn.ModuleList(blocks))
    return part


def last_hidden(model: PreTrainedModel, batch: Batch) -> Float[Tensor, "batch position hidden"]:
    """Return the final-norm states of a batch, from its cached trunk states where it has them.

    Args:
        model: The whole model, or its upper part if the batch carries trunk states.
        batch: The sequences, on any device.

    Returns:
        States that the LM head reads, where the model is.
    """
    place = next(model.parameters())
    inputs = (
        {"input_ids": to_device_of(batch.tokens, place)}
        if batch.lower_states is None
        else {"inputs_embeds": to_device_of(batch.lower_states, place)}
    )
    states: Tensor = model.base_model(**inputs, use_cache=False).last_hidden_state
    return states


@torch.no_grad()
def all_hidden(
    model: PreTrainedModel, batch: Batch, rows: int = 256, allocate: Allocate = in_memory
) -> Float[Tensor, "batch position hidden"]:
    """Return `last_hidden` of a batch of any size, `rows` sequences at a time.

    Args:
        model: As for `last_hidden`.
        batch: The sequences, at least one.
        rows: Sequences per forward pass.
        allocate: Where the states go.

    Returns:
        The states, without a graph.
    """
    states: Tensor | None = None
    for covered in batch.microbatch_slices(rows):
        part = last_hidden(model, batch[covered])
        states = allocate((len(batch), *part.shape[1:]), part) if states is None else states
        states[covered] = part
    assert states is not None, "a batch has at least one sequence"
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
        batch: Sequences without cached states.
        rows: Sequences per forward pass.
        allocate: Where the states go.

    Returns:
        The same sequences with `hidden` filled in.

    Raises:
        ValueError: As in `lower_blocks`.
    """
    lower = lower_blocks(model, first)
    return batch.with_lower_states(all_hidden(lower, batch, rows, allocate))
