"""What each block's last state already says when the LM head reads it directly."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.architectures import architecture
from knowsub.evaluation.context import EncodedFacts
from knowsub.evaluation.metrics import Metrics
from knowsub.lm.batch import Batch


def split_budget(budget: int, blocks: int) -> list[int]:
    """Return how many tokens are read off each block, evenly, the rest to the uppermost.

    Args:
        budget: Tokens over all blocks.
        blocks: Number of blocks.

    Returns:
        Tokens per block, summing to the budget; a block may get none if the budget is small.
    """
    base, rest = divmod(budget, blocks)
    return [base + (block >= blocks - rest) for block in range(blocks)]


@torch.no_grad()
def projections(model: PreTrainedModel, batch: Batch) -> tuple[Float[Tensor, "read vocab"], ...]:
    """Return the logits of each block's state at the last prompt position.

    Args:
        model: The whole model, as it is now.
        batch: Sequences without trunk states.

    Returns:
        One tensor per block: its output through the final norm and the LM head.
    """
    states = model.base_model(
        input_ids=batch.tokens, use_cache=False, output_hidden_states=True
    ).hidden_states
    at = batch.first_targets
    head = model.get_output_embeddings()
    norm = model.get_submodule(architecture(model).norm)
    inner = [head(norm(state[at])) for state in states[1:-1]]
    return (*inner, head(states[-1][at]))


def extracted(
    logits: tuple[Float[Tensor, "read vocab"], ...], tokens: Int[Tensor, "read token"], budget: int
) -> Bool[Tensor, "read token"]:
    """Return whether a token is among those read off any block.

    Args:
        logits: Projection of each block.
        tokens: Tokens sought, several per prompt.
        budget: Tokens read off all blocks together.

    Returns:
        True for a hit.
    """
    hit = torch.zeros_like(tokens, dtype=torch.bool)
    for block, count in zip(logits, split_budget(budget, len(logits)), strict=True):
        if count:
            top = block.topk(min(count, block.shape[-1])).indices
            hit |= (tokens[:, :, None] == top[:, None, :]).any(dim=-1)
    return hit


def logit_lens_hits(
    model: PreTrainedModel, items: EncodedFacts, budget: int
) -> Float[Tensor, " statement"]:
    """Return whether the first token of each statement's tail can be read off some block.

    Args:
        model: The whole model, as it is now.
        items: The items; their trunk states are not used.
        budget: Tokens read off all blocks together.

    Returns:
        1 for a hit, 0 for none.
    """
    hits = []
    for batch in items.batches:
        plain = replace(batch, lower_states=None)
        own = plain.labels[plain.first_targets][:, None]
        hits.append(extracted(projections(model, plain), own, budget)[:, 0].float().cpu())
    return torch.cat(hits)[torch.cat(items.rows).argsort()]


def logit_lens(
    model: PreTrainedModel,
    items: EncodedFacts,
    swapped: EncodedFacts,
    original: Float[Tensor, " fact"],
    budget: int,
) -> Metrics:
    """Return how often the tail is still found in some block, beside its floor.

    `logit_lens_hit`: share of target prompts whose tail (its first token) is in the union of the
    top tokens of all blocks, the budget split over the blocks; `logit_lens_floor`: the same for
    random tails of the relation that are not true of the head; `logit_lens_original`: the original
    model [fractions].

    Args:
        model: The whole model, as it is now.
        items: Items of the target facts.
        swapped: The same prompts with random tails.
        original: `logit_lens_hits` of the original model, per fact.
        budget: Tokens read off all blocks together.

    Returns:
        The figures.
    """
    finding = Metrics()
    finding.add("logit_lens_hit", items.per_fact(logit_lens_hits(model, items, budget)))
    finding.add("logit_lens_floor", swapped.per_fact(logit_lens_hits(model, swapped, budget)))
    finding.add("logit_lens_original", original)
    return finding
