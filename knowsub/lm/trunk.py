"""The frozen blocks below the first masked one, computed once; the blocks above, on their own.

Mask training and every evaluation of a mask change only the upper blocks, so the states that
enter them are computed once per sequence. No forward pass is written again: both halves are
shallow copies of the Hugging Face model that share its blocks and parameters.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from knowsub.anatomy import Family, block_count, family
from knowsub.lm.encode import Batch


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
    row = family(model)
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
    row = family(model)
    lower = _with_blocks(model, row, range(first))
    lower.set_submodule(row.norm, nn.Identity())
    return lower


def _with_blocks(model: PreTrainedModel, row: Family, kept: range) -> PreTrainedModel:
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


def last_hidden(model: PreTrainedModel, batch: Batch) -> Float[Tensor, "batch position hidden"]:
    """Return the final-norm states of a batch, from its cached trunk states where it has them.

    Args:
        model: The whole model, or its upper part if the batch carries trunk states.
        batch: The sequences.

    Returns:
        States that the LM head reads.
    """
    inputs = (
        {"input_ids": batch.tokens} if batch.hidden is None else {"inputs_embeds": batch.hidden}
    )
    states: Tensor = model.base_model(**inputs, use_cache=False).last_hidden_state
    return states


@torch.no_grad()
def push(model: PreTrainedModel, first: int, batch: Batch, rows: int = 256) -> Batch:
    """Return a batch with the states that enter block `first`, computed `rows` sequences at a time.

    Args:
        model: The whole model.
        first: 0-based index of the first masked block.
        batch: Sequences without cached states.
        rows: Sequences per forward pass.

    Returns:
        The same sequences with `hidden` filled in.

    Raises:
        ValueError: As in `lower_blocks`.
    """
    lower = lower_blocks(model, first)
    states = [last_hidden(lower, batch[slice(i, i + rows)]) for i in range(0, len(batch), rows)]
    return batch.with_hidden(torch.cat(states))
