"""Knowledge neurons: MLP neurons that the answer is attributed to by integrated gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from knowsub.architectures import MLP, MaskableMatrix, ModuleType
from knowsub.lm.batch import Batch
from knowsub.lm.score import target_logits


def neuron_attributions(
    model: PreTrainedModel,
    upper: PreTrainedModel,
    sites: Sequence[MaskableMatrix],
    batch: Batch,
    steps: int,
    rows: int,
) -> dict[int, Float[Tensor, " neuron"]]:
    """Return how much of the tail's probability each MLP neuron accounts for.

    A neuron is an input of the second MLP matrix. Its attribution is its activation at the tail
    positions times the integral of the gradient of the tail's probability, as all activations of
    its block are scaled there from 0 to their value; the mean over statements.

    Args:
        model: The original model.
        upper: Its upper blocks.
        sites: The maskable matrices.
        batch: The statements, with trunk states.
        steps: Points of the integral (right Riemann sum).
        rows: Statements per forward pass.

    Returns:
        Block -> attribution per neuron [probability].

    Source:
        Dai et al. 2022 (arXiv 2104.08696), equation 4, with the product over the tail's tokens as
        the probability.
    """
    result = {}
    for site in sites:
        if site.module_type == ModuleType.MLP_OUT:
            module = model.get_submodule(site.parameter.removesuffix(".weight"))
            total = torch.zeros(site.shape[site.axes.index("in")])
            for start in range(0, len(batch), rows):
                part = batch[slice(start, start + rows)]
                for step in range(1, steps + 1):
                    total += _attributed(upper, module, part, step / steps).cpu()
            result[site.block] = total / (steps * len(batch))
    return result


def _attributed(
    upper: PreTrainedModel, module: nn.Module, batch: Batch, scale: float
) -> Float[Tensor, " neuron"]:
    """Return activation times gradient at one scale, summed over statements and tail positions."""
    seen: list[tuple[Tensor, Tensor]] = []

    def rescale(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        value = inputs[0].detach()
        scaled = (value[batch.target_mask] * scale).requires_grad_(True)
        seen.append((value[batch.target_mask], scaled))
        return (value.masked_scatter(batch.target_mask[..., None], scaled), *inputs[1:])

    handle = module.register_forward_pre_hook(rescale)
    try:
        with torch.enable_grad():
            _, logits, labels = next(target_logits(upper, batch, len(batch)))
            log_p = -nn.functional.cross_entropy(logits.float(), labels, reduction="none")
            owner = batch.target_mask.nonzero()[:, 0]
            probability = (
                torch.zeros(len(batch), device=log_p.device).index_add(0, owner, log_p).exp()
            )
            value, scaled = seen[0]
            gradient = torch.autograd.grad(probability.sum(), scaled)[0]
    finally:
        handle.remove()
    return (value * gradient).sum(dim=0)


def neuron_scores(
    sites: Sequence[MaskableMatrix], attributions: Mapping[int, Float[Tensor, " neuron"]]
) -> dict[str, Tensor]:
    """Return each weight's score: that of the neuron it feeds or is fed by.

    Args:
        sites: The maskable matrices.
        attributions: Block -> score per neuron.

    Returns:
        Site name -> scores; weights of the attention, which belong to no neuron, have 0.
    """
    scores = {}
    for site in sites:
        if site.module_type in MLP and site.block in attributions:
            axis = site.axes.index("in" if site.module_type == ModuleType.MLP_OUT else "out")
            shape = [-1 if place == axis else 1 for place in range(len(site.shape))]
            scores[site.name] = attributions[site.block].view(shape).expand(site.shape).clone()
        else:
            scores[site.name] = torch.zeros(site.shape)
    return scores


def neuron_counts(sites: Sequence[MaskableMatrix], counts: Mapping[str, int]) -> dict[str, int]:
    """Return counts with those of a block's attention handed to its MLP.

    A neuron has no attention weights, so the number of weights is matched per block: each MLP
    site keeps its own count and takes a share of the attention's in proportion to its size. The
    neurons of a site are taken whole, in order of score; the last one only as far as the count
    goes. What does not fit into the MLP is left out.

    Args:
        sites: The maskable matrices.
        counts: Site name -> number of weights of the mask to be matched.

    Returns:
        Site name -> number of weights.
    """
    result = {site.name: counts.get(site.name, 0) for site in sites}
    for block in {site.block for site in sites}:
        mlp = [site for site in sites if site.block == block and site.module_type in MLP]
        others = [site for site in sites if site.block == block and site.module_type not in MLP]
        left = sum(result[site.name] for site in others) if mlp else 0
        result |= {site.name: 0 for site in others if mlp}
        whole = sum(site.size for site in mlp)
        for site in mlp:
            share = round(left * site.size / whole) if whole else 0
            result[site.name] = min(result[site.name] + share, site.size)
            left, whole = left - share, whole - site.size
    return result
