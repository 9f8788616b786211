"""What parts, combinations and sizes of masks do: ablate them, and score target and control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from knowsub.architectures import MaskableMatrix
from knowsub.kg.facts import Role, Split, Statement
from knowsub.lm.batch import Batch, encode_statements, encode_text
from knowsub.lm.blocks import cache_lower_states, upper_blocks
from knowsub.lm.load import context_length
from knowsub.lm.score import score
from knowsub.masks.ablation import ablated
from knowsub.masks.mask import (
    Mask,
    difference,
    floral,
    grow,
    intersection,
    random_masks,
    shrink,
    union,
)


class AblationContext:
    """A model with the statements of every target KG, ready to have masks ablated.

    What enters the first masked block and the original model's scores are computed once.

    Args:
        model: The original model.
        matrices: Its maskable matrices.
        batches: Target -> the statements of its target facts, and of its control facts.
        text: Blocks of running text; None = no text is scored.

    Raises:
        ValueError: If the architecture is unknown.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        matrices: Sequence[MaskableMatrix],
        batches: Mapping[str, Sequence[Batch]],
        text: Batch | None = None,
    ) -> None:
        first = min(matrix.block for matrix in matrices)
        self.matrices, self.targets = tuple(matrices), list(batches)
        self._model, self._upper = model, upper_blocks(model, first)
        self._batches = {
            target: [cache_lower_states(model, first, batch) for batch in pair]
            for target, pair in batches.items()
        }
        self._text = None if text is None else cache_lower_states(model, first, text)
        self._original = {target: self._nll(target) for target in batches}

    def nll_increase(self, mask: Mask, target: str) -> dict[str, float]:
        """Return the mean over statements of the ablated model's NLL less the original's.

        `target_dnll`, `control_dnll` [nats per object token], and with a text `text_dnll` [nats per
        token] (errors: `masks.ablation.ablated`).
        """
        with ablated(self._model, self.matrices, mask):
            changed = self._nll(target)
        increase = [new - old for new, old in zip(changed, self._original[target], strict=True)]
        return dict(zip(("target_dnll", "control_dnll", "text_dnll"), increase, strict=False))

    def _nll(self, target: str) -> list[float]:
        scores = [score(self._upper, batch, rows=256) for batch in self._batches[target]]
        if self._text is not None:
            scores.append(score(self._upper, self._text))
        return [float(each.mean_nll.double().mean()) for each in scores]


def open_ablation_context(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    matrices: Sequence[MaskableMatrix],
    statements: Mapping[str, Sequence[Statement]],
    limit: int,
    text: str = "",
    block_tokens: int = 64,
) -> AblationContext:
    """Return a context with the target and the held-out control facts of every target KG, and text.

    Args:
        model: The original model.
        tokenizer: Its tokenizer.
        matrices: The maskable matrices that masks may cover.
        statements: Target -> all its statements.
        limit: Facts per target and per control at most, and text blocks.
        text: Running text that no search reads; empty = none is scored.
        block_tokens: Length of a text block [tokens].

    Returns:
        The context; a target without held-out control facts has its training ones as control.

    Raises:
        ValueError: If a target has no facts, or a statement does not fit the model.
    """
    batches = {}
    for target, rows in statements.items():
        target_facts, heldout, trained = (
            best_statements(rows, split, limit)
            for split in (Split.TARGET, Split.CONTROL_HELDOUT, Split.CONTROL_TRAIN)
        )
        batches[target] = [
            encode_statements(tokenizer, chosen, context_length(model))
            for chosen in (target_facts, heldout or trained)
        ]
    blocks = encode_text(tokenizer, text, block_tokens)[:limit] if text else None
    return AblationContext(model, matrices, batches, blocks)


def best_statements(statements: Sequence[Statement], split: Split, limit: int) -> list[Statement]:
    """Return the training prompt of lowest object NLL of `limit` facts of a split, taken evenly."""
    best: dict[str, Statement] = {}
    for statement in statements:
        if statement.split is split and statement.role is Role.TRAIN:
            other = best.setdefault(statement.fact.key, statement)
            if statement.nll_or_inf < other.nll_or_inf:
                best[statement.fact.key] = statement
    step = max(1, -(-len(best) // limit))
    return list(best.values())[::step]


def mask_parts(mask: Mask, matrices: Sequence[MaskableMatrix]) -> dict[str, Mask]:
    """Return a mask's parts: `whole`, then `block 2`, ... and `q`, ... -> the part as a mask."""
    covered = [matrix for matrix in matrices if matrix.name in mask.bits]
    groups: dict[str, list[str]] = {}
    for matrix in covered:
        groups.setdefault(f"block {matrix.block}", []).append(matrix.name)
    for matrix in covered:
        groups.setdefault(str(matrix.module_type), []).append(matrix.name)
    return {"whole": mask} | {
        group: Mask({name: mask.bits[name] for name in names}, mask.model)
        for group, names in groups.items()
    }


def seed_combinations(masks: Sequence[Mask]) -> dict[str, Mask]:
    """Return what the masks of one target's seeds have in common and apart, {} for a single mask.

    `union`, `shared core` (in all), `floral` (in at least two, from three masks on) and
    `first only` (in the first and no other).
    """
    if len(masks) < 2:
        return {}
    combined = {"union": union(*masks), "shared core": intersection(*masks)}
    if len(masks) > 2:
        combined["floral"] = floral(*masks)
    return combined | {"first only": difference(*masks)}


def resize_mask(
    mask: Mask, share: float, generator: torch.Generator, *, across: bool = False
) -> Mask:
    """Return a random `share` of a mask; above 1, with random weights added.

    The share is kept in each matrix, or, `across` all of them, of the whole mask as in the paper.
    """
    if share > 1:
        return grow(mask, share - 1, generator, across=across)
    return shrink(mask, 1 - share, generator, across=across) if share < 1 else mask


def with_random_twins(masks: Mapping[str, Mask], generator: torch.Generator) -> dict[str, Mask]:
    """Return masks, each followed by a random one of as many weights per matrix, `random as ...`.

    Masks of other sizes cannot be compared with one random mask: each needs its own.
    """
    both: dict[str, Mask] = {}
    for name, mask in masks.items():
        twin = next(random_masks(mask, 1, generator))
        both |= {name: mask, f"random as {name}": twin}
    return both


def ablation_rows(
    context: AblationContext, target: str, masks: Mapping[str, Mask], **fields: object
) -> list[dict[str, Any]]:
    """Return one row for each mask ablated: `target`, fields, `name`, `weights` and increases."""
    return [
        {"target": target, **fields, "name": name, "weights": mask.size}
        | context.nll_increase(mask, target)
        for name, mask in masks.items()
    ]
