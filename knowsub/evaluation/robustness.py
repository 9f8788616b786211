"""Whether the removal holds: everything removed, the mask alone, more and less of it, quantised weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from knowsub.architectures import MaskableMatrix
from knowsub.evaluation.context import EncodedFacts, EvalContext, score_facts
from knowsub.evaluation.metrics import KnownFacts, Metrics, fact_difference, forgetting, ppl_ratio
from knowsub.masks.ablation import applied, only_subnetwork
from knowsub.masks.mask import Mask, grow, shrink


def all_maskable(mask: Mask) -> Mask:
    """Return the mask of all maskable weights, over the same sites."""
    bits = {name: torch.ones_like(own) for name, own in mask.bits.items()}
    return Mask(bits, mask.model, {"method": "everything"})


def full_ablation(bench: EvalContext, mask: Mask) -> Metrics:
    """Return what is left with every maskable weight removed.

    `all_removed_target_ppl_ratio`: near 1 means that the facts live elsewhere, so that any
    suppression by a mask is interference, not removal. `all_removed_target_accuracy` [fraction].

    Args:
        bench: The bench.
        mask: Any mask over the sites.

    Returns:
        The figures.
    """
    with bench.ablated(all_maskable(mask)):
        now = bench.score(sets=("target",), texts=()).sets["target"]
    return Metrics(
        {
            "all_removed_target_ppl_ratio": ppl_ratio(now, bench.original.sets["target"]),
            "all_removed_target_accuracy": float(now.correct.double().mean()),
        }
    )


def sufficiency(bench: EvalContext, mask: Mask) -> Metrics:
    """Return what the subnetwork says alone, every other maskable weight removed.

    `alone_target_nll`, `alone_heldout_nll` [nats per tail token] and their `_ppl_ratio`;
    `alone_target_accuracy` [fraction].

    Args:
        bench: The bench.
        mask: The critical subnetwork.

    Returns:
        The figures.
    """
    finding = Metrics()
    with only_subnetwork(bench.encoder.model, bench.sites, mask):
        view = bench.score(sets=("target", "heldout"), texts=())
    for name, now in view.sets.items():
        finding.values[f"alone_{name}_nll"] = float(now.nll.double().sum() / now.tokens.sum())
        finding.values[f"alone_{name}_ppl_ratio"] = ppl_ratio(now, bench.original.sets[name])
    finding.values["alone_target_accuracy"] = float(view.sets["target"].correct.double().mean())
    return finding


def minimality(
    bench: EvalContext, mask: Mask, shares: Sequence[float], generator: torch.Generator
) -> Metrics:
    """Return what removing somewhat more or less than the subnetwork does.

    `grown<p>_target_dnll` and `shrunk<p>_target_dnll`, and the same for `heldout`: dNLL after p
    percent of the mask's weights are added from outside it or taken from it at random, per site
    [nats per tail token].

    Args:
        bench: The bench.
        mask: The critical subnetwork.
        shares: Shares of the mask [fraction].
        generator: Source of randomness.

    Returns:
        The figures.
    """
    finding = Metrics()
    for share in shares:
        for verb, change in (("grown", grow), ("shrunk", shrink)):
            with bench.ablated(change(mask, share, generator)):
                view = bench.score(sets=("target", "heldout"), texts=())
            for name, now in view.sets.items():
                moved = fact_difference(bench.sets[name], now, bench.original.sets[name])
                figure = f"{verb}{round(100 * share)}_{name}_dnll"
                finding.values[figure] = float(moved.mean())
    return finding


def fake_quantize(
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


def fake_quantized_weights(
    model: nn.Module, sites: Iterable[MaskableMatrix], weights: Mapping[str, Tensor], bits: int
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
            view.copy_(fake_quantize(view, inputs, bits))
    return result


def quantization(
    bench: EvalContext,
    known: KnownFacts,
    every_site: Sequence[MaskableMatrix],
    weights: Mapping[str, Tensor],
    word_lengths: Sequence[int],
) -> Metrics:
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
    model, finding, original = bench.encoder.model, Metrics(), bench.original.sets["target"]
    items = without_lower_states(known.items)
    for bits in word_lengths:
        with applied(model, fake_quantized_weights(model, every_site, weights, bits)):
            now = score_facts(model, items)
        with applied(model, fake_quantized_weights(model, every_site, {}, bits)):
            intact = score_facts(model, items)
        finding = finding | forgetting(f"int{bits}_forgetting", known, now)
        finding.add(f"int{bits}_target_dnll", fact_difference(items, now, original))
        finding.add(f"int{bits}_target_accuracy", items.per_fact(now.correct))
        finding.values |= {
            f"int{bits}_target_ppl_ratio": ppl_ratio(now, original),
            f"int{bits}_target_median_rank": float(now.rank.double().quantile(0.5)),
            f"int{bits}_original_accuracy": float(intact.correct.double().mean()),
        }
    return finding


def without_lower_states(items: EncodedFacts) -> EncodedFacts:
    """Return items for the whole model, their cached trunk states left out."""
    return replace(
        items, batches=tuple(replace(batch, lower_states=None) for batch in items.batches)
    )
