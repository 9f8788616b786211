"""Whether the removal holds, and what is left behind it.

All maskable weights removed, the subnetwork alone, more and less of it, quantized weights; objects
that the logit lens still reads off the states between the blocks; and relearning: whether
finetuning on some target facts brings the others back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from knowsub.architectures import MaskableMatrix, maskable_matrices
from knowsub.evaluation.context import EncodedFacts, EvalContext, score_facts
from knowsub.evaluation.metrics import KnownFacts, Metrics, forgetting, median, ppl_ratio
from knowsub.evaluation.options import TestOptions
from knowsub.evaluation.relearning import (
    MIN_LOST_ACCURACY,
    Finetuning,
    Fold,
    encode_batch,
    finetune,
    split_folds,
    without,
)
from knowsub.lm.batch import Batch
from knowsub.lm.head import final_modules, lm_head
from knowsub.masks.ablation import applied, only_subnetwork, plain_blocks, remaining_weights
from knowsub.masks.mask import Mask, grow, shrink


@dataclass(frozen=True)
class RelearnedAccuracy:
    """Top-answer accuracy on target facts that were not finetuned on."""

    before: float
    """Before finetuning [fraction]."""
    after: float
    """After finetuning on the other facts [fraction]."""


def relearn(
    context: EvalContext, mask: Mask | None, folds: Sequence[Fold], options: TestOptions
) -> RelearnedAccuracy:
    """Return accuracy on each fold's test facts before and after finetuning on its train facts.

    The mask is removed before finetuning; None is the original model. Accuracy is the share of
    prompts, over all folds, whose object is the top answer.
    """
    start = without(context, mask)
    settings = Finetuning(options.relearning_lr, options.seed)
    n_correct, n_prompts = torch.zeros(2, dtype=torch.long), 0
    for fold in folds:
        batch = encode_batch(context.encoder, fold.train)
        test = context.encoder.encode(fold.test).without_lower_states()
        states = finetune(start, batch, settings, (0, options.relearning_steps))
        n_correct += torch.stack([score_facts(tuned, test).correct.sum() for tuned in states])
        n_prompts += len(test)
    before, after = n_correct.tolist()
    return RelearnedAccuracy(before / n_prompts, after / n_prompts)


def relearning(
    context: EvalContext, mask: Mask, random_mask: Mask, options: TestOptions
) -> Metrics:
    """Return the metrics of `recovery` for the remaining model, its original and a random mask."""
    generator = torch.Generator().manual_seed(options.seed)
    statements = context.sets["target"].statements
    try:
        folds = split_folds(statements, options.relearning_folds, generator)
    except ValueError as error:
        return Metrics(skipped={"relearning": str(error)})
    original, remaining, random = (
        relearn(context, removed, folds, options) for removed in (None, mask, random_mask)
    )
    metrics = recovery(original, remaining, random)
    metrics.values["relearning_majority_baseline"] = majority_baseline(folds)
    return metrics


def recovery(
    original: RelearnedAccuracy, remaining: RelearnedAccuracy, random: RelearnedAccuracy
) -> Metrics:
    """Return how much of the lost accuracy finetuning on other facts brings back.

    `relearning_recovery` = (a_after - a_R) / (a_F - a_R), where a is the top-answer accuracy on
    facts that were not finetuned on, a_R of the remaining model before finetuning, a_after after
    it, and a_F of the original model after the same finetuning. `relearning_<model>_before` and
    `_after` for remaining, original and random (as many random weights removed) [fractions].
    Recovery is left out where removal cost less than 0.05 of accuracy.
    """
    metrics = Metrics()
    models = {"remaining": remaining, "original": original, "random": random}
    for name, accuracy in models.items():
        metrics.values[f"relearning_{name}_before"] = accuracy.before
        metrics.values[f"relearning_{name}_after"] = accuracy.after
    lost = original.after - remaining.before
    if lost < MIN_LOST_ACCURACY:
        metrics.skipped["relearning_recovery"] = f"removal cost only {lost:.3f} of accuracy"
    else:
        metrics.values["relearning_recovery"] = (remaining.after - remaining.before) / lost
    return metrics


def majority_baseline(folds: Sequence[Fold]) -> float:
    """Return the accuracy of always answering the commonest object of the finetuned facts.

    It needs no knowledge of the tested facts; a share of the tested statements [fraction].
    """
    right = 0
    for fold in folds:
        commonest = Counter(s.object for s in fold.train).most_common(1)[0][0]
        right += sum(s.object == commonest for s in fold.test)
    return right / sum(len(fold.test) for fold in folds)


def full_ablation(context: EvalContext, mask: Mask) -> Metrics:
    """Return what is left with every maskable weight removed.

    `all_removed_target_ppl_ratio`: near 1 means that the facts live elsewhere, so that any
    suppression by a mask is interference, not removal. `all_removed_target_accuracy` [fraction].
    """
    everything = {name: torch.ones_like(bits) for name, bits in mask.bits.items()}
    with context.ablated(Mask(everything, mask.model)):
        now = context.score(sets=("target",), texts=()).sets["target"]
    return Metrics(
        {
            "all_removed_target_ppl_ratio": ppl_ratio(now, context.original.sets["target"]),
            "all_removed_target_accuracy": float(now.correct.double().mean()),
        }
    )


def sufficiency(context: EvalContext, mask: Mask) -> Metrics:
    """Return what the subnetwork says alone, every other maskable weight removed.

    `alone_target_nll`, `alone_heldout_nll` [nats per object token] and their `_ppl_ratio`;
    `alone_target_accuracy` [fraction].
    """
    metrics = Metrics()
    with only_subnetwork(context.encoder.model, context.matrices, mask):
        now = context.score(sets=("target", "heldout"), texts=())
    for name, scores in now.sets.items():
        nll = float(scores.nll.double().sum() / scores.tokens.sum())
        metrics.values[f"alone_{name}_nll"] = nll
        metrics.values[f"alone_{name}_ppl_ratio"] = ppl_ratio(scores, context.original.sets[name])
    metrics.values["alone_target_accuracy"] = float(now.sets["target"].correct.double().mean())
    return metrics


def minimality(
    context: EvalContext, mask: Mask, shares: Sequence[float], generator: torch.Generator
) -> Metrics:
    """Return what removing somewhat more or less than the subnetwork does.

    `grown<p>_target_dnll` and `shrunk<p>_target_dnll`, and the same for `heldout`: dNLL after p
    percent of the mask's weights, given as fractions in `shares`, are added from outside it or
    taken from it at random, per matrix [nats per object token].
    """
    metrics = Metrics()
    for share in shares:
        for verb, change in (("grown", grow), ("shrunk", shrink)):
            with context.ablated(change(mask, share, generator)):
                now = context.score(sets=("target", "heldout"), texts=())
            for name, scores in now.sets.items():
                metric = f"{verb}{round(100 * share)}_{name}_dnll"
                metrics.values[metric] = float(context.dnll(name, scores).mean())
    return metrics


def fake_quantize(
    weight: Float[Tensor, "*axes"], inputs: tuple[int, ...], bits: int
) -> Float[Tensor, "*axes"]:
    """Return a matrix rounded to the nearest of 2^bits - 1 levels, one scale per output channel.

    `inputs` are the axes that the layer reads from; every other index is a channel. Zero stays
    zero, the largest weight of each channel stays itself.
    """
    levels = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(dim=inputs, keepdim=True) / levels
    return torch.where(scale > 0, (weight / scale).round() * scale, weight)


def fake_quantized_weights(
    model: nn.Module, matrices: Iterable[MaskableMatrix], weights: Mapping[str, Tensor], bits: int
) -> dict[str, Tensor]:
    """Return parameter name -> rounded tensor, for the parameters that hold the matrices.

    `weights` (parameter name -> tensor) stand in for the model's own, such as removed ones.
    """
    result: dict[str, Tensor] = {}
    with torch.no_grad():
        for matrix in matrices:
            name = matrix.parameter
            if name not in result:
                source = weights[name] if name in weights else model.get_parameter(name)
                result[name] = source.detach().clone()
            view = matrix.view(result[name])
            inputs = tuple(matrix.axes.index(axis) for axis in matrix.input_axes)
            view.copy_(fake_quantize(view, inputs, bits))
    return result


def quantization(
    context: EvalContext, mask: Mask, known: KnownFacts, word_lengths: Sequence[int]
) -> Metrics:
    """Return the efficacy metrics after rounding the remaining model's weights to few bits.

    For each word length b [bits]: `int<b>_forgetting` [fraction], `int<b>_target_dnll` [nats per
    object token], `int<b>_target_ppl_ratio`, `int<b>_target_accuracy`, `int<b>_target_median_rank`,
    all against the original model at full precision, and `int<b>_original_accuracy`, the rounded
    original model's. The linear weights of all blocks are rounded but those in nf4, which are in 4
    bits already; embeddings and LM head are not.
    """
    model, metrics, original = context.encoder.model, Metrics(), context.original.sets["target"]
    matrices = maskable_matrices(model, plain_blocks(model))
    removed = remaining_weights(model, context.matrices, mask)
    # Rounding reaches the lower blocks too, so that their cached states do not hold.
    facts = known.facts.without_lower_states()
    for bits in word_lengths:
        with applied(model, fake_quantized_weights(model, matrices, removed, bits)):
            now = score_facts(model, facts)
        with applied(model, fake_quantized_weights(model, matrices, {}, bits)):
            rounded_original = score_facts(model, facts)
        metrics |= forgetting(f"int{bits}_forgetting", known, now)
        metrics.add(f"int{bits}_target_dnll", context.dnll("target", now))
        metrics.add(f"int{bits}_target_accuracy", facts.per_fact(now.correct))
        metrics.values |= {
            f"int{bits}_target_ppl_ratio": ppl_ratio(now, original),
            f"int{bits}_target_median_rank": median(now.rank),
            f"int{bits}_original_accuracy": float(rounded_original.correct.double().mean()),
        }
    return metrics


def split_budget(budget: int, blocks: int) -> list[int]:
    """Return how many tokens are read off each block: evenly, the rest to the uppermost."""
    base, rest = divmod(budget, blocks)
    return [base + (block >= blocks - rest) for block in range(blocks)]


@torch.no_grad()
def block_logits(model: PreTrainedModel, batch: Batch) -> tuple[Float[Tensor, "batch vocab"], ...]:
    """Return each block's output at the last prompt position through final norm and LM head.

    The model is whole, as it is now; the batch carries no lower states.
    """
    outputs = model.base_model(input_ids=batch.tokens, use_cache=False, output_hidden_states=True)
    prompt_end, head = batch.first_targets, lm_head(model)
    final = nn.Sequential(*final_modules(model))  # norm and projection
    inner = [head(final(state[prompt_end])) for state in outputs.hidden_states[1:-1]]
    # The last state has been through them.
    return (*inner, head(outputs.last_hidden_state[prompt_end]))


def extracted(
    logits: tuple[Float[Tensor, "prompt vocab"], ...],
    tokens: Int[Tensor, "prompt token"],
    budget: int,
) -> Bool[Tensor, "prompt token"]:
    """Return whether each token is among the top tokens of any block, `budget` over all blocks."""
    hit = torch.zeros_like(tokens, dtype=torch.bool)
    for block, count in zip(logits, split_budget(budget, len(logits)), strict=True):
        if count:
            top = block.topk(min(count, block.shape[-1])).indices
            hit |= (tokens[:, :, None] == top[:, None, :]).any(dim=-1)
    return hit


def logit_lens_hits(
    model: PreTrainedModel, facts: EncodedFacts, budget: int
) -> Float[Tensor, " statement"]:
    """Return 1 where the first token of a statement's object can be read off some block, else 0."""
    hits = []
    for batch in facts.without_lower_states().batches:
        first_token = batch.labels[batch.first_targets][:, None]
        hit = extracted(block_logits(model, batch), first_token, budget)
        hits.append(hit[:, 0].float().cpu())
    return facts.in_order(hits)


def logit_lens(
    context: EvalContext, swapped: EncodedFacts, original: Float[Tensor, " fact"], budget: int
) -> Metrics:
    """Return how often the true object can be read off some block, beside its floor.

    `logit_lens_hit`: share of target prompts whose object (its first token) is in the union of the
    top tokens of all blocks, `budget` tokens split over the blocks; `logit_lens_floor`: the same
    for random objects of the relation that are not true of the subject (`swapped`);
    `logit_lens_original`: the original model [fractions].
    """
    model, facts, metrics = context.encoder.model, context.sets["target"], Metrics()
    metrics.add("logit_lens_hit", facts.per_fact(logit_lens_hits(model, facts, budget)))
    metrics.add("logit_lens_floor", swapped.per_fact(logit_lens_hits(model, swapped, budget)))
    metrics.add("logit_lens_original", original)
    return metrics
