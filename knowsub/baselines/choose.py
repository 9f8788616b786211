"""Every method by its name: the scores of all weights, and how many of them to take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from knowsub.anatomy import Site, block_count, sites
from knowsub.baselines.knowledge_neurons import neuron_attributions, neuron_counts, neuron_scores
from knowsub.baselines.magnitude import magnitude_scores
from knowsub.baselines.options import BaselineOptions, Method
from knowsub.baselines.random import random_scores
from knowsub.baselines.select import apart, scaled, select
from knowsub.baselines.snip import signed_scores, snip_scores
from knowsub.baselines.wanda import wanda_scores
from knowsub.kg.triple import Role, Split, Statement
from knowsub.lm.encode import Batch, encode_statements
from knowsub.lm.load import context_length
from knowsub.lm.trunk import push, upper_blocks
from knowsub.masks.mask import Mask

CONTROL = (Split.CONTROL_TRAIN, Split.NEAR_TRAIN, Split.NEAR_UNTOLD)
"""The control facts that mask training sees, too."""


@dataclass(frozen=True)
class Material:
    """What a method may look at: the model, and the statements that mask training sees."""

    model: PreTrainedModel
    """The original model."""
    upper: PreTrainedModel
    """Its upper blocks."""
    sites: tuple[Site, ...]
    """The maskable matrices."""
    target: Batch
    """Target statements of the training families, with trunk states."""
    control: Batch
    """Some control statements of the training families, with trunk states."""


def gather_material(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    mask: Mask,
    statements: Sequence[Statement],
    options: BaselineOptions,
) -> Material:
    """Return what methods look at.

    Args:
        model: The original model.
        tokenizer: Its tokenizer.
        mask: The trained mask; its sites are the maskable matrices.
        statements: Every statement of the target's knowledge graph.
        options: How many control statements, and the seed of the draw.

    Returns:
        The material, on the model's device.

    Raises:
        ValueError: If there is no target or no control statement of a training family.
    """
    every = sites(model, range(block_count(model)))
    maskable = tuple(site for site in every if site.name in mask.bits)
    first = min(site.block for site in maskable)
    seen = [one for one in statements if one.role == Role.TRAIN]
    target = [one for one in seen if one.split == Split.TARGET]
    control = [one for one in seen if one.split in CONTROL]
    generator = torch.Generator().manual_seed(options.seed)
    order = torch.randperm(len(control), generator=generator)[: options.control_statements]
    control = [control[index] for index in order.tolist()]
    batches = [
        push(
            model, first, encode_statements(tokenizer, part, context_length(model)).to(model.device)
        )
        for part in (target, control)
    ]
    return Material(model, upper_blocks(model, first), maskable, *batches)


def baseline_masks(
    mask: Mask, material: Material, options: BaselineOptions
) -> Iterator[tuple[Method, float, Mask]]:
    """Yield each method's mask, at the trained mask's size and at the further sizes.

    Args:
        mask: The trained mask, whose counts per site are matched.
        material: What the methods look at.
        options: The methods and their settings.

    Yields:
        Method, multiple of the trained mask's size, mask; the masks of one method lie in one
        another.
    """
    sizes = {site.name: site.size for site in material.sites}
    for method in options.methods:
        scores = method_scores(method, mask, material, options)
        counts = mask.counts()
        if method == Method.KNOWLEDGE_NEURONS:
            counts = neuron_counts(material.sites, counts)
        for factor in (1.0, *options.factors):
            meta = {"method": str(method), "factor": str(factor)}
            yield method, factor, select(scores, scaled(counts, factor, sizes), mask.model, meta)


def method_scores(
    method: Method, mask: Mask, material: Material, options: BaselineOptions
) -> Mapping[str, Tensor]:
    """Return the score of each weight by one method.

    Args:
        method: The method.
        mask: A mask over the sites.
        material: What the method looks at.
        options: Its settings.

    Returns:
        Site name -> scores; higher = removed earlier.
    """
    model, upper, places = material.model, material.upper, material.sites
    importance: dict[Method, Callable[[Batch], dict[str, Tensor]]] = {
        Method.SNIP: lambda batch: snip_scores(model, upper, places, batch, options.rows),
        Method.SIGNED: lambda batch: signed_scores(model, upper, places, batch, options.rows),
        Method.WANDA: lambda batch: wanda_scores(model, upper, places, batch),
        Method.KNOWLEDGE_NEURONS: lambda batch: neuron_scores(
            places,
            neuron_attributions(model, upper, places, batch, options.integration_steps, 128),
        ),
    }
    if method == Method.RANDOM:
        return random_scores(mask, torch.Generator().manual_seed(options.seed))
    if method == Method.MAGNITUDE:
        return magnitude_scores(model, places)
    of = importance[method]
    return apart(of(material.target), of(material.control), options.protected)
