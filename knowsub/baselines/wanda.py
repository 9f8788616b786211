"""Wanda: |weight| times the norm of the activation that it reads; set difference."""

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
    model: PreTrainedModel, upper: PreTrainedModel, sites: Sequence[MaskableMatrix], batch: Batch
) -> dict[str, Tensor]:
    """Return |w| times the L2 norm of its input over all positions up to the last one read.

    Args:
        model: The original model.
        upper: Its upper blocks.
        sites: The maskable matrices.
        batch: The statements, with trunk states.

    Returns:
        Site name -> importance.

    Source:
        Sun et al. 2024 (Wanda, arXiv 2306.11695). They compare weights within an output; here, as
        every method, within a site.
    """
    norms = input_norms(model, upper, {site.parameter for site in sites}, batch)
    scores = {}
    for site in sites:
        weight = site.view(model.get_parameter(site.parameter)).detach()
        sizes = dict(zip(site.axes, site.shape, strict=True))
        shape = [sizes[axis] if axis in site.input_axes else 1 for axis in site.axes]
        scores[site.name] = (weight.abs() * norms[site.parameter].view(shape)).cpu()
    return scores


@torch.no_grad()
def input_norms(
    model: PreTrainedModel, upper: PreTrainedModel, parameters: set[str], batch: Batch
) -> dict[str, Float[Tensor, " in"]]:
    """Return the L2 norm of each input feature of some linear layers.

    Args:
        model: The original model.
        upper: Its upper blocks.
        parameters: Names of the layers' weights.
        batch: The statements, with trunk states; positions after the last read one do not count.

    Returns:
        Parameter name -> norm per input feature.
    """
    real = batch.target_mask.flip(1).cumsum(dim=1).flip(1) > 0
    squares: dict[str, Tensor] = {}
    handles = []
    for name in sorted(parameters):

        def add(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
            squares[name] = inputs[0][real].float().square().sum(dim=0)

        module = model.get_submodule(name.removesuffix(".weight"))
        handles.append(module.register_forward_pre_hook(add))
    try:
        last_hidden(upper, batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: square.sqrt() for name, square in squares.items()}
