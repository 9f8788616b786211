"""Wanda: |weight| times the norm of the activation that it multiplies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from knowsub.architectures import MaskableMatrix
from knowsub.lm.batch import Batch
from knowsub.lm.blocks import last_hidden


def wanda_scores(
    model: PreTrainedModel, upper: PreTrainedModel, matrices: Sequence[MaskableMatrix], batch: Batch
) -> dict[str, Tensor]:
    """Return |w| times the L2 norm of its input over all positions up to the last target position.

    Matrix name -> importance. The batch carries lower states for the upper blocks.

    Source:
        Sun et al. 2024 (Wanda, arXiv 2306.11695). They compare weights within an output; here, as
        for every method, within a matrix.
    """
    norms = input_norms(model, upper, {matrix.parameter for matrix in matrices}, batch)
    scores = {}
    for matrix in matrices:
        weight = matrix.view(model.get_parameter(matrix.parameter)).detach()
        sizes = zip(matrix.axes, matrix.shape, strict=True)
        shape = [size if axis in matrix.input_axes else 1 for axis, size in sizes]
        scores[matrix.name] = (weight.abs() * norms[matrix.parameter].view(shape)).cpu()
    return scores


@torch.no_grad()
def input_norms(
    model: PreTrainedModel, upper: PreTrainedModel, parameters: set[str], batch: Batch
) -> dict[str, Float[Tensor, " in"]]:
    """Return parameter name -> L2 norm of each input feature of that weight's linear layer.

    Positions after a statement's last target position do not count.
    """
    counted = batch.target_mask.flip(1).cumsum(dim=1).flip(1) > 0
    squares: dict[str, Tensor] = {}
    handles = []
    for name in sorted(parameters):

        def add(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
            squares[name] = inputs[0][counted].float().square().sum(dim=0)

        module = model.get_submodule(name.removesuffix(".weight"))
        handles.append(module.register_forward_pre_hook(add))
    try:
        last_hidden(upper, batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: square.sqrt() for name, square in squares.items()}
