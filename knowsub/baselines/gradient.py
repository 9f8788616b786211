"""Gradients of the tail's NLL with respect to the maskable weights, a few statements at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from knowsub.anatomy import Site
from knowsub.lm.encode import Batch
from knowsub.lm.score import read_logits


def weight_gradients(
    model: PreTrainedModel, upper: PreTrainedModel, sites: Sequence[Site], batch: Batch, rows: int
) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Yield the weights and the gradient of the mean tail NLL, for each few statements.

    Args:
        model: The original model.
        upper: Its upper blocks.
        sites: The maskable matrices.
        batch: The statements, with trunk states.
        rows: Statements per gradient.

    Yields:
        Site name -> weights and their gradient [nats per unit of weight], of the site's shape.
    """
    names = list(dict.fromkeys(site.parameter for site in sites))
    parameters = [model.get_parameter(name) for name in names]
    wanted = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        for start in range(0, len(batch), rows):
            part = batch[slice(start, start + rows)]
            with torch.enable_grad():
                _, logits, labels = next(read_logits(upper, part, rows))
                loss = nn.functional.cross_entropy(logits.float(), labels)
            gradients = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
            yield {
                site.name: (
                    site.view(model.get_parameter(site.parameter)).detach(),
                    site.view(gradients[site.parameter].contiguous()),
                )
                for site in sites
            }
    finally:
        for parameter, before in zip(parameters, wanted, strict=True):
            parameter.requires_grad_(before)
