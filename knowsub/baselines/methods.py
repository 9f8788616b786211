"""Masks of a given size by other methods: scores of all weights, and how many to take.

Random, magnitude, Wanda, SNIP and first-order Taylor scores are computed here, knowledge neurons in
`knowledge_neurons`; `Method` in the options names them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from knowsub.architectures import MaskableMatrix
from knowsub.baselines.knowledge_neurons import neuron_attributions, neuron_counts, neuron_scores
from knowsub.baselines.options import BaselineOptions, Method
from knowsub.kg.facts import Role, Split, Statement
from knowsub.lm.batch import Batch, encode_statements
from knowsub.lm.blocks import cache_lower_states, last_hidden, upper_blocks
from knowsub.lm.load import context_length
from knowsub.lm.score import target_logits
from knowsub.masks.ablation import all_matrices, masked_matrices
from knowsub.masks.mask import Mask, random_scores
from knowsub.masks.options import Granularity
from knowsub.masks.units import mask_granularity, matched_random_masks


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


Scores = Mapping[str, Tensor]
"""Matrix name -> score of each weight, of the matrix's shape; higher = chosen earlier."""


def magnitude_scores(model: nn.Module, matrices: Sequence[MaskableMatrix]) -> dict[str, Tensor]:
    """Return |w| of each weight."""
    return {
        matrix.name: matrix.view(model.get_parameter(matrix.parameter)).detach().abs().cpu()
        for matrix in matrices
    }


def snip(weight: Tensor, gradient: Tensor) -> Tensor:
    """Return |g w| [nats].

    Source:
        Lee et al. 2019 (SNIP); as a score on language data, Wei et al. 2024 (arXiv 2402.05162).
    """
    return (weight * gradient).abs()


def taylor(weight: Tensor, gradient: Tensor) -> Tensor:
    """Return -g w: how much the NLL rises, to first order, when the weight is removed [nats].

    Source:
        Molchanov et al. 2019 (arXiv 1906.10771), who square it; here its sign is kept.
    """
    return -weight * gradient


def gradient_scores(
    model: PreTrainedModel,
    upper: PreTrainedModel,
    matrices: Sequence[MaskableMatrix],
    batch: Batch,
    rows: int,
    score: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, Tensor]:
    """Return the mean score of weight and gradient, over gradients of `rows` statements each.

    The gradient is that of the statements' mean object NLL; the batch carries lower states.
    """
    names = list(dict.fromkeys(matrix.parameter for matrix in matrices))
    parameters = [model.get_parameter(name) for name in names]
    trainable = [parameter.requires_grad for parameter in parameters]
    total: dict[str, Tensor] = {}
    starts = range(0, len(batch), rows)
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        for start in starts:
            with torch.enable_grad():
                part = batch[start : start + rows]
                _, logits, labels = next(target_logits(upper, part, rows))
                loss = nn.functional.cross_entropy(logits.float(), labels)
            gradients = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
            for matrix in matrices:
                weight = matrix.view(model.get_parameter(matrix.parameter)).detach()
                gradient = matrix.view(gradients[matrix.parameter].contiguous())
                value, name = score(weight, gradient), matrix.name
                total[name] = total[name].add_(value) if name in total else value
    finally:
        for parameter, before in zip(parameters, trainable, strict=True):
            parameter.requires_grad_(before)
    return {name: (value / len(starts)).cpu() for name, value in total.items()}


def select(scores: Scores, counts: Mapping[str, int], model: str, meta: Mapping[str, str]) -> Mask:
    """Return the mask of the highest scores, exactly so many in each matrix.

    Args:
        scores: Score of each weight.
        counts: Matrix name -> number of weights; a matrix left out gets none.
        model: Fingerprint of the model.
        meta: How the scores were made.

    Returns:
        The mask. Equal scores are taken in storage order, so that equal inputs give equal masks.

    Raises:
        ValueError: If a score is not a number, or a matrix has no scores or too few weights.
    """
    if missing := sorted(counts.keys() - scores.keys()):
        raise ValueError(f"matrix {missing[0]} has no scores")
    bits = {name: _highest(name, score, counts.get(name, 0)) for name, score in scores.items()}
    return Mask(bits, model, dict(meta))


def _highest(name: str, scores: Float[Tensor, ...], count: int) -> Tensor:
    """Return True for the `count` highest scores of one matrix."""
    if bool(scores.isnan().any()):
        raise ValueError(f"matrix {name} has a score that is not a number")
    if not 0 <= count <= scores.numel():
        raise ValueError(f"matrix {name} has {scores.numel()} weights, not {count}")
    order = torch.sort(scores.flatten(), descending=True, stable=True).indices
    bits = torch.zeros(scores.numel(), dtype=torch.bool)
    bits[order[:count].cpu()] = True
    return bits.view(scores.shape)


def set_difference(target: Scores, control: Scores, protected_share: float) -> dict[str, Tensor]:
    """Return scores by importance to the target, with what the control facts need put last.

    In each matrix the share of weights that are most important to the control facts, as far as
    their importance is above 0, comes after all others; within both groups the order is that of
    importance to the target. A score is the rank by that, lowered for protected weights.

    Source:
        Wei et al. 2024 (arXiv 2402.05162), set difference of SNIP and Wanda scores; they stop where
        the unprotected run out, here the protected then follow, so that the size is always met.
    """
    scores = {}
    for name, importance in target.items():
        size = importance.numel()
        order = torch.sort(importance.flatten(), stable=True).indices
        ranks = torch.empty(size, dtype=torch.float64)
        ranks[order.cpu()] = torch.arange(size, dtype=torch.float64)
        protected = _highest(name, control[name], int(protected_share * size))
        protected &= (control[name] > 0).cpu()
        scores[name] = (ranks - protected.flatten() * float(size)).view(importance.shape)
    return scores


def scale_counts(
    counts: Mapping[str, int], factor: float, sizes: Mapping[str, int]
) -> dict[str, int]:
    """Return `factor` times the counts, rounded, no matrix beyond its size."""
    return {name: min(round(count * factor), sizes[name]) for name, count in counts.items()}


CONTROL = (
    Split.CONTROL_TRAIN,
    Split.CONTROL_TRAIN_UNKNOWN,
    Split.NEIGHBORHOOD_TRAIN,
    Split.NEIGHBORHOOD_TRAIN_UNKNOWN,
    Split.UNSEEN,
)
"""The control facts that mask training sees, too."""


@dataclass(frozen=True)
class CalibrationData:
    """What a method may use: the model, and statements that mask training sees."""

    model: PreTrainedModel
    """The original model."""
    upper: PreTrainedModel
    """Its upper blocks."""
    matrices: tuple[MaskableMatrix, ...]
    """The maskable matrices."""
    target: Batch
    """Target statements of the training families, with lower states."""
    control: Batch
    """Some control statements of the training families, with lower states."""


def calibration_data(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    mask: Mask,
    statements: Sequence[Statement],
    options: BaselineOptions,
) -> CalibrationData:
    """Return what methods may use, on the model's device.

    Args:
        model: The original model.
        tokenizer: Its tokenizer.
        mask: The trained mask; its matrices are the maskable ones.
        statements: Every statement of the target's knowledge graph.
        options: How many control statements, and the seed of the draw.

    Returns:
        The data.

    Raises:
        ValueError: If there is no target or no control statement of a training family.
    """
    matrices = masked_matrices(all_matrices(model), mask)
    first = min(matrix.block for matrix in matrices)
    trained = [s for s in statements if s.role == Role.TRAIN]
    target = [s for s in trained if s.split == Split.TARGET]
    control = [s for s in trained if s.split in CONTROL]
    generator = torch.Generator().manual_seed(options.seed)
    order = torch.randperm(len(control), generator=generator)[: options.control_statements]
    control = [control[index] for index in order.tolist()]
    target_batch, control_batch = (
        cache_lower_states(
            model, first, encode_statements(tokenizer, part, context_length(model)).to(model.device)
        )
        for part in (target, control)
    )
    upper = upper_blocks(model, first)
    return CalibrationData(model, upper, tuple(matrices), target_batch, control_batch)


def baseline_masks(
    mask: Mask, data: CalibrationData, options: BaselineOptions
) -> Iterator[tuple[Method, float, Mask]]:
    """Yield each method's mask, at the trained mask's size and at the further sizes.

    Args:
        mask: The trained mask, whose counts per matrix are matched.
        data: What the methods may use.
        options: The methods and their settings.

    Yields:
        Method, multiple of the trained mask's size, mask; a method's smaller masks lie within its
        larger ones. The random mask of the trained mask's size has as many whole units of its
        granularity.
    """
    sizes = {name: bits.numel() for name, bits in mask.bits.items()}
    units = mask_granularity(mask) is not Granularity.WEIGHT
    for method in options.methods:
        scores = method_scores(method, mask, data, options)
        counts = mask.counts()
        if method == Method.KNOWLEDGE_NEURONS:
            counts = neuron_counts(data.matrices, counts)
        for factor in (1.0, *options.size_multipliers):
            meta = {"method": str(method), "factor": str(factor)}
            if factor == 1 and method == Method.RANDOM and units:  # as many neurons, heads, ...
                generator = torch.Generator().manual_seed(options.seed)
                drawn = next(matched_random_masks(mask, data.matrices, 1, generator))
                yield method, factor, Mask(drawn.bits, mask.model, meta)
            else:
                scaled = scale_counts(counts, factor, sizes)
                yield method, factor, select(scores, scaled, mask.model, meta)


NEURON_ROWS = 128
"""Statements per forward pass behind knowledge neurons."""


def method_scores(
    method: Method, mask: Mask, data: CalibrationData, options: BaselineOptions
) -> Scores:
    """Return the score of each weight by one method; higher = removed earlier."""
    model, upper, matrices = data.model, data.upper, data.matrices

    def importance(batch: Batch) -> Scores:
        """Return the importance of each weight to the facts of one batch."""
        if method == Method.WANDA:
            return wanda_scores(model, upper, matrices, batch)
        if method == Method.KNOWLEDGE_NEURONS:
            steps, rows = options.integration_steps, NEURON_ROWS
            neurons = neuron_attributions(model, upper, matrices, batch, steps, rows)
            return neuron_scores(matrices, neurons)
        score = {Method.SNIP: snip, Method.TAYLOR: taylor}[method]
        return gradient_scores(model, upper, matrices, batch, options.batch, score)

    if method == Method.RANDOM:
        return random_scores(mask, torch.Generator().manual_seed(options.seed))
    if method == Method.MAGNITUDE:
        return magnitude_scores(model, matrices)
    target, control = importance(data.target), importance(data.control)
    return set_difference(target, control, options.protected_share)
