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
    matrices: Sequence[MaskableMatrix],
    batch: Batch,
    steps: int,
    rows: int,
) -> dict[int, Float[Tensor, " neuron"]]:
    """Return how much of the object's probability each MLP neuron accounts for.

    A neuron is an input of the second MLP matrix. Its attribution is its activation at the object
    positions times the integral of the gradient of the object's probability, as all activations of
    its block are scaled there from 0 to their value; the mean over statements. The integral is a
    right Riemann sum of `steps` points; `rows` statements per forward pass.

    Block -> attribution per neuron [probability].

    Source:
        Dai et al. 2022 (arXiv 2104.08696), equation 4, with the product over the object's tokens
        as the probability.
    """
    result = {}
    for matrix in matrices:
        if matrix.module_type == ModuleType.MLP_OUT:
            module = model.get_submodule(matrix.parameter.removesuffix(".weight"))
            total = torch.zeros(matrix.shape[matrix.axes.index("in")])
            for start in range(0, len(batch), rows):
                part = batch[start : start + rows]
                for step in range(1, steps + 1):
                    total += _attribution_at(upper, module, part, step / steps).cpu()
            result[matrix.block] = total / (steps * len(batch))
    return result


def _attribution_at(
    upper: PreTrainedModel, module: nn.Module, batch: Batch, scale: float
) -> Float[Tensor, " neuron"]:
    """Return activation times gradient at one scale, summed over statements and positions."""
    captured: list[tuple[Tensor, Tensor]] = []

    def rescale(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        activation = inputs[0].detach()
        scaled = (activation[batch.target_mask] * scale).requires_grad_(True)
        captured.append((activation[batch.target_mask], scaled))
        return (activation.masked_scatter(batch.target_mask[..., None], scaled), *inputs[1:])

    handle = module.register_forward_pre_hook(rescale)
    try:
        with torch.enable_grad():
            _, logits, labels = next(target_logits(upper, batch, len(batch)))
            log_p = -nn.functional.cross_entropy(logits.float(), labels, reduction="none")
            row = batch.target_mask.nonzero()[:, 0]
            log_p_object = torch.zeros(len(batch), device=log_p.device).index_add(0, row, log_p)
            activation, scaled = captured[0]
            gradient = torch.autograd.grad(log_p_object.exp().sum(), scaled)[0]
    finally:
        handle.remove()
    return (activation * gradient).sum(dim=0)


def neuron_scores(
    matrices: Sequence[MaskableMatrix], attributions: Mapping[int, Float[Tensor, " neuron"]]
) -> dict[str, Tensor]:
    """Return each weight's score: the attribution of the neuron that it feeds or is fed by.

    Matrix name -> scores; weights of the attention, which belong to no neuron, have 0.
    """
    scores = {}
    for matrix in matrices:
        if matrix.module_type in MLP and matrix.block in attributions:
            neuron_axis = "in" if matrix.module_type == ModuleType.MLP_OUT else "out"
            shape = [-1 if axis == neuron_axis else 1 for axis in matrix.axes]
            attribution = attributions[matrix.block].view(shape)
            scores[matrix.name] = attribution.expand(matrix.shape).clone()
        else:
            scores[matrix.name] = torch.zeros(matrix.shape)
    return scores


def neuron_counts(matrices: Sequence[MaskableMatrix], counts: Mapping[str, int]) -> dict[str, int]:
    """Return counts per matrix with those of a block's attention moved to its MLP.

    A neuron has no attention weights, so the number of weights is matched per block: each MLP
    matrix keeps its own count and takes a share of the attention's in proportion to its size. The
    neurons of a matrix are taken whole, in order of score; the last one only as far as the count
    goes. What does not fit into the MLP is left out.
    """
    result = {matrix.name: counts.get(matrix.name, 0) for matrix in matrices}
    for block in {matrix.block for matrix in matrices}:
        mlp = [m for m in matrices if m.block == block and m.module_type in MLP]
        attention = [m for m in matrices if m.block == block and m.module_type not in MLP]
        left = sum(result[m.name] for m in attention) if mlp else 0
        result |= {m.name: 0 for m in attention if mlp}
        size_left = sum(m.size for m in mlp)
        for matrix in mlp:
            share = round(left * matrix.size / size_left) if size_left else 0
            result[matrix.name] = min(result[matrix.name] + share, matrix.size)
            left, size_left = left - share, size_left - matrix.size
    return result
