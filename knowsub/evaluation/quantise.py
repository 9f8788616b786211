"""Round-to-nearest quantisation of the linear weights, as a deployed model would be rounded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from knowsub.anatomy import Site
from knowsub.evaluation.bench import Bench
from knowsub.evaluation.finding import Finding
from knowsub.evaluation.forgetting import Known, forgetting
from knowsub.evaluation.items import Items, scored
from knowsub.evaluation.perplexity import fact_difference, ppl_ratio
from knowsub.masks.removal import installed


def rounded(
    weight: Float[Tensor, "*axes"], inputs: tuple[int, ...], bits: int
) -> Float[Tensor, "*axes"]:
    """Return a matrix rounded to the nearest of 2^bits - 1 levels, one scale per output channel.

    Args:
        weight: Weights in the layout of their site.
        inputs: Axes that the layer reads from; every other index is a channel.
        bits: Word length [bits].

    Returns:
        Dequantised weights; zero stays zero, the largest of each channel stays itself.
    """
    levels = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(dim=inputs, keepdim=True) / levels
    return torch.where(scale > 0, (weight / scale).round() * scale, weight)


def rounded_weights(
    model: nn.Module, sites: Iterable[Site], weights: Mapping[str, Tensor], bits: int
) -> dict[str, Tensor]:
    """Return the linear weights of all blocks, rounded.

    Args:
        model: The original model.
        sites: Every linear matrix of every block.
        weights: Parameter name -> tensor that stands in for the model's own (removed weights).
        bits: Word length [bits].

    Returns:
        Parameter name -> rounded tensor.
    """
    result: dict[str, Tensor] = {}
    with torch.no_grad():
        for site in sites:
            if site.parameter not in result:
                own = weights.get(site.parameter)
                source = model.get_parameter(site.parameter) if own is None else own
                result[site.parameter] = source.detach().clone()
            view = site.view(result[site.parameter])
            inputs = tuple(site.axes.index(axis) for axis in site.input_axes)
            view.copy_(rounded(view, inputs, bits))
    return result


def quantise(
    bench: Bench,
    known: Known,
    every_site: Sequence[Site],
    weights: Mapping[str, Tensor],
    word_lengths: Sequence[int],
) -> Finding:
    """Return the efficacy figures after rounding the remaining model.

    For each word length: `int<b>_forgetting` [fraction], `int<b>_target_dnll` [nats per tail
    token], `int<b>_target_ppl_ratio`, `int<b>_target_accuracy`, `int<b>_target_median_rank`, all
    against the original model at full precision, and `int<b>_original_accuracy`, the rounded
    original model's. The linear weights of all blocks are rounded; embeddings and LM head are not.

    Args:
        bench: The bench, its model at its original weights.
        known: What the original model knew of the target.
        every_site: Every linear matrix of every block.
        weights: The remaining model's weights, as `masks.removal.remaining_weights` returns them.
        word_lengths: Word lengths [bits].

    Returns:
        The figures.
    """
    model, finding, original = bench.reader.model, Finding(), bench.original.sets["target"]
    items = without_trunk(known.items)
    for bits in word_lengths:
        with installed(model, rounded_weights(model, every_site, weights, bits)):
            now = scored(model, items)
        with installed(model, rounded_weights(model, every_site, {}, bits)):
            intact = scored(model, items)
        finding = finding | forgetting(f"int{bits}_forgetting", known, now)
        finding.add(f"int{bits}_target_dnll", fact_difference(items, now, original))
        finding.add(f"int{bits}_target_accuracy", items.per_fact(now.correct))
        finding.figures |= {
            f"int{bits}_target_ppl_ratio": ppl_ratio(now, original),
            f"int{bits}_target_median_rank": float(now.rank.double().quantile(0.5)),
            f"int{bits}_original_accuracy": float(intact.correct.double().mean()),
        }
    return finding


def without_trunk(items: Items) -> Items:
    """Return items for the whole model, their cached trunk states left out."""
    return replace(items, batches=tuple(replace(batch, hidden=None) for batch in items.batches))
