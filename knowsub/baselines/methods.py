"""Masks of a given size by other methods: random, magnitude, SNIP and Taylor scores, and how many weights to take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from knowsub.architectures import MaskableMatrix, block_count, maskable_matrices
from knowsub.baselines.knowledge_neurons import neuron_attributions, neuron_counts, neuron_scores
from knowsub.baselines.options import BaselineOptions, Method
from knowsub.baselines.wanda import wanda_scores
from knowsub.kg.facts import Role, Split, Statement
from knowsub.lm.batch import Batch, encode_statements
from knowsub.lm.blocks import cache_lower_states, upper_blocks
from knowsub.lm.load import context_length
from knowsub.lm.score import target_logits
from knowsub.masks.mask import Mask, random_scores


def magnitude_scores(model: nn.Module, sites: Sequence[MaskableMatrix]) -> dict[str, Tensor]:
    """Return |w| of each weight.

    Args:
        model: The original model.
        sites: The maskable matrices.

    Returns:
        Site name -> scores.
    """
    return {
        site.name: site.view(model.get_parameter(site.parameter)).detach().abs().cpu()
        for site in sites
    }


def weight_gradients(
    model: PreTrainedModel,
    upper: PreTrainedModel,
    sites: Sequence[MaskableMatrix],
    batch: Batch,
    rows: int,
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
                _, logits, labels = next(target_logits(upper, part, rows))
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


def snip_scores(
    model: PreTrainedModel,
    upper: PreTrainedModel,
    sites: Sequence[MaskableMatrix],
    batch: Batch,
    rows: int,
) -> dict[str, Tensor]:
    """Return the mean over gradients of |g w|.

    Args:
        model: The original model.
        upper: Its upper blocks.
        sites: The maskable matrices.
        batch: The statements, with trunk states.
        rows: Statements per gradient.

    Returns:
        Site name -> importance [nats].

    Source:
        Lee et al. 2019 (SNIP); as a score on language data, Wei et al. 2024 (arXiv 2402.05162).
    """
    return _mean(model, upper, sites, batch, rows, lambda weight, grad: (weight * grad).abs())


def taylor_scores(
    model: PreTrainedModel,
    upper: PreTrainedModel,
    sites: Sequence[MaskableMatrix],
    batch: Batch,
    rows: int,
) -> dict[str, Tensor]:
    """Return -g w: how much the NLL rises, to first order, when the weight is removed.

    Args:
        model: The original model.
        upper: Its upper blocks.
        sites: The maskable matrices.
        batch: The statements, with trunk states.
        rows: Statements per gradient.

    Returns:
        Site name -> predicted rise [nats].
    """
    return _mean(model, upper, sites, batch, rows, lambda weight, grad: -weight * grad)


def _mean(
    model: PreTrainedModel,
    upper: PreTrainedModel,
    sites: Sequence[MaskableMatrix],
    batch: Batch,
    rows: int,
    score: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    count = 0
    for gradients in weight_gradients(model, upper, sites, batch, rows):
        count += 1
        for name, (weight, gradient) in gradients.items():
            value = score(weight, gradient)
            total[name] = total[name].add_(value) if name in total else value
    return {name: (value / count).cpu() for name, value in total.items()}


Scores = Mapping[str, Tensor]
"""Site name -> score of each weight, of the site's shape; higher = chosen earlier."""


def select(scores: Scores, counts: Mapping[str, int], model: str, meta: Mapping[str, str]) -> Mask:
    """Return the mask of the highest scores, exactly so many in each site.

    Args:
        scores: Score of each weight.
        counts: Site name -> number of weights; a site left out gets none.
        model: Fingerprint of the model.
        meta: How the scores were made.

    Returns:
        The mask. Equal scores are taken in storage order, so that equal inputs give equal masks.

    Raises:
        ValueError: If a score is not a number, a site has no scores, or fewer weights than wanted.
    """
    if missing := sorted(counts.keys() - scores.keys()):
        raise ValueError(f"site {missing[0]} has no scores")
    bits = {name: _highest(name, own, counts.get(name, 0)) for name, own in scores.items()}
    return Mask(bits, model, dict(meta))


def _highest(name: str, scores: Float[Tensor, ...], count: int) -> Tensor:
    if bool(scores.isnan().any()):
        raise ValueError(f"site {name} has a score that is not a number")
    if not 0 <= count <= scores.numel():
        raise ValueError(f"site {name} has {scores.numel()} weights, not {count}")
    order = torch.sort(scores.flatten(), descending=True, stable=True).indices
    bits = torch.zeros(scores.numel(), dtype=torch.bool)
    bits[order[:count].cpu()] = True
    return bits.view(scores.shape)


def set_difference(target: Scores, control: Scores, protected: float) -> dict[str, Tensor]:
    """Return the set difference as scores: target importance, what the controls need put last.

    In each site the given share of weights that are most important to the controls, as far as their
    importance is above 0, comes after all others; within both groups the order is that of
    importance to the target.

    Args:
        target: Importance to the target, any finite unit.
        control: Importance to the controls, any unit.
        protected: Share of each site that is protected [fraction].

    Returns:
        Score of each weight: its rank by target importance, lowered for protected ones.

    Source:
        Wei et al. 2024 (arXiv 2402.05162), set difference of SNIP and Wanda scores; they stop where
        the unprotected run out, here the protected then follow, so that the size is always met.
    """
    scores = {}
    for name, own in target.items():
        order = torch.sort(own.flatten(), stable=True).indices
        ranks = torch.empty(own.numel(), dtype=torch.float64)
        ranks[order.cpu()] = torch.arange(own.numel(), dtype=torch.float64)
        kept = (
            _highest(name, control[name], int(protected * own.numel())) & (control[name] > 0).cpu()
        )
        scores[name] = (ranks - kept.flatten() * float(own.numel())).view(own.shape)
    return scores


def scale_counts(
    counts: Mapping[str, int], factor: float, sizes: Mapping[str, int]
) -> dict[str, int]:
    """Return so many times the counts, rounded, no site beyond its size.

    Args:
        counts: Site name -> number of weights.
        factor: Multiple.
        sizes: Site name -> number of weights that there are.

    Returns:
        Site name -> number of weights.
    """
    return {name: min(round(count * factor), sizes[name]) for name, count in counts.items()}


CONTROL = (Split.CONTROL_TRAIN, Split.NEIGHBORHOOD_TRAIN, Split.UNSEEN)
"""The control facts that mask training sees, too."""


@dataclass(frozen=True)
class CalibrationData:
    """What a method may look at: the model, and the statements that mask training sees."""

    model: PreTrainedModel
    """The original model."""
    upper: PreTrainedModel
    """Its upper blocks."""
    sites: tuple[MaskableMatrix, ...]
    """The maskable matrices."""
    target: Batch
    """Target statements of the training families, with trunk states."""
    control: Batch
    """Some control statements of the training families, with trunk states."""


def calibration_data(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    mask: Mask,
    statements: Sequence[Statement],
    options: BaselineOptions,
) -> CalibrationData:
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
    every = maskable_matrices(model, range(block_count(model)))
    maskable = tuple(site for site in every if site.name in mask.bits)
    first = min(site.block for site in maskable)
    seen = [one for one in statements if one.role == Role.TRAIN]
    target = [one for one in seen if one.split == Split.TARGET]
    control = [one for one in seen if one.split in CONTROL]
    generator = torch.Generator().manual_seed(options.seed)
    order = torch.randperm(len(control), generator=generator)[: options.control_statements]
    control = [control[index] for index in order.tolist()]
    batches = [
        cache_lower_states(
            model, first, encode_statements(tokenizer, part, context_length(model)).to(model.device)
        )
        for part in (target, control)
    ]
    return CalibrationData(model, upper_blocks(model, first), maskable, *batches)


def baseline_masks(
    mask: Mask, material: CalibrationData, options: BaselineOptions
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
        for factor in (1.0, *options.size_multipliers):
            meta = {"method": str(method), "factor": str(factor)}
            yield (
                method,
                factor,
                select(scores, scale_counts(counts, factor, sizes), mask.model, meta),
            )


def method_scores(
    method: Method, mask: Mask, material: CalibrationData, options: BaselineOptions
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
        Method.SNIP: lambda batch: snip_scores(model, upper, places, batch, options.batch),
        Method.TAYLOR: lambda batch: taylor_scores(model, upper, places, batch, options.batch),
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
    return set_difference(of(material.target), of(material.control), options.protected_share)
