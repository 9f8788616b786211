"""What parts, combinations and sizes of masks do: remove them, and score target and control."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from knowsub.architectures import MaskableMatrix
from knowsub.kg.facts import Role, Split, Statement
from knowsub.lm.batch import Batch, encode_statements
from knowsub.lm.blocks import cache_lower_states, upper_blocks
from knowsub.lm.load import context_length
from knowsub.lm.score import score
from knowsub.masks.ablation import ablated
from knowsub.masks.mask import Mask, difference, floral, grow, intersection, shrink, union

ROWS = 256
"""Statements per forward pass."""


class AblationContext:
    """A model with its statements pushed through the trunk, ready to have masks removed.

    Making it pushes the statements through the blocks below the first site and scores the
    original model.

    Args:
        model: The original model.
        sites: Its maskable matrices.
        batches: Name of a set of statements -> the statements, without cached states.

    Raises:
        ValueError: If the architecture is unknown.
    """

    def __init__(
        self, model: PreTrainedModel, sites: Sequence[MaskableMatrix], batches: Mapping[str, Batch]
    ) -> None:
        first = min(site.block for site in sites)
        self._model, self._sites = model, tuple(sites)
        self._upper = upper_blocks(model, first)
        self._batches = {
            name: cache_lower_states(model, first, batch) for name, batch in batches.items()
        }
        self._original = {name: self._nll(name) for name in batches}

    def damage(self, mask: Mask, names: Sequence[str]) -> dict[str, float]:
        """Return what removing a mask costs [nats per tail token].

        Args:
            mask: The mask.
            names: Sets of statements to score.

        Returns:
            Name -> mean over statements of the remaining model's NLL less the original's.

        Raises:
            ValueError: If the mask does not fit the model.
        """
        with ablated(self._model, self._sites, mask):
            return {name: self._nll(name) - self._original[name] for name in names}

    def _nll(self, name: str) -> float:
        scored = score(self._upper, self._batches[name], rows=ROWS)
        return float(scored.mean_nll.double().mean())


@dataclass(frozen=True)
class Sets:
    """Names of the statements that belong to one target KG."""

    target: str
    """Name of the target KG's set on the bench."""
    control: str
    """Name of the held-out control set on the bench."""


def best_statements(statements: Sequence[Statement], split: Split, limit: int) -> list[Statement]:
    """Return the training prompt of lowest tail NLL of every fact of one split.

    Args:
        statements: Statements of all splits and families.
        split: The split wanted.
        limit: Facts at most, taken evenly from all of them.

    Returns:
        One statement per fact, in the given order of facts.
    """
    best: dict[str, Statement] = {}
    for statement in statements:
        if statement.split is split and statement.role is Role.TRAIN:
            other = best.setdefault(statement.fact.key, statement)
            if statement.nll_or_inf < other.nll_or_inf:
                best[statement.fact.key] = statement
    found = list(best.values())
    step = max(1, -(-len(found) // limit))
    return found[::step]


def open_ablation_context(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sites: Sequence[MaskableMatrix],
    statements: Mapping[str, Sequence[Statement]],
    limit: int,
) -> tuple[AblationContext, dict[str, Sets]]:
    """Return a bench with the target and the held-out control facts of every target KG.

    Args:
        model: The original model.
        tokenizer: Its tokenizer.
        sites: The maskable matrices that masks may cover.
        statements: Target -> all its statements.
        limit: Facts per set at most.

    Returns:
        The bench, and target -> the names of its sets. A target without held-out control facts
        is scored on its training ones.

    Raises:
        ValueError: If a target has no facts, or a statement does not fit the model.
    """
    batches: dict[str, Batch] = {}
    sets: dict[str, Sets] = {}
    for target, rows in statements.items():
        sets[target] = Sets(f"{target} target", f"{target} control")
        asked = best_statements(rows, Split.TARGET, limit)
        control = best_statements(rows, Split.CONTROL_HELDOUT, limit)
        control = control or best_statements(rows, Split.CONTROL_TRAIN, limit)
        for name, chosen in ((sets[target].target, asked), (sets[target].control, control)):
            batches[name] = encode_statements(tokenizer, chosen, context_length(model))
    return AblationContext(model, sites, batches), sets


def parts_of(mask: Mask, sites: Sequence[MaskableMatrix]) -> dict[str, Mask]:
    """Return the parts of a mask that lie in one block, and those in one type of matrix.

    Args:
        mask: The mask.
        sites: Sites of its model.

    Returns:
        `whole`, then `block 2`, ..., then `q`, ... -> the part as a mask.
    """
    covered = [site for site in sites if site.name in mask.bits]
    groups: dict[str, list[str]] = {}
    labels: list[Callable[[MaskableMatrix], str]] = [
        lambda s: f"block {s.block}",
        lambda s: str(s.module_type),
    ]
    for label in labels:
        for site in covered:
            groups.setdefault(label(site), []).append(site.name)
    parts = {
        name: Mask({site: mask.bits[site] for site in members}, mask.model)
        for name, members in groups.items()
    }
    return {"whole": mask} | parts


def combinations_of(masks: Sequence[Mask]) -> dict[str, Mask]:
    """Return what the masks of one target's seeds have in common and apart.

    Args:
        masks: One mask per seed.

    Returns:
        `union`, `shared core` (in all), `floral` (in at least two, from three masks on) and
        `first alone` (in the first and no other); nothing for a single mask.
    """
    if len(masks) < 2:
        return {}
    combined = {"union": union(*masks), "shared core": intersection(*masks)}
    if len(masks) > 2:
        combined["floral"] = floral(*masks)
    return combined | {"first alone": difference(*masks)}


def resized(mask: Mask, share: float, generator: torch.Generator) -> Mask:
    """Return a random part of a mask, or the mask with random weights added, per site.

    Args:
        mask: The mask.
        share: Size wanted over the mask's size [fraction]; above 1 it grows.
        generator: Source of randomness.

    Returns:
        The mask of that size.
    """
    if share > 1:
        return grow(mask, share - 1, generator)
    return shrink(mask, 1 - share, generator) if share < 1 else mask


def part_rows(
    bench: AblationContext, masks: Mapping[str, Mask], sets: Sets
) -> list[dict[str, Any]]:
    """Return what removing each of several masks does to one target KG and its control.

    Args:
        bench: The bench.
        masks: Name -> mask.
        sets: The target KG's statements.

    Returns:
        Rows of `name`, `weights`, `target_dnll` and `control_dnll` [nats per tail token].
    """
    rows = []
    for name, mask in masks.items():
        lost = bench.damage(mask, [sets.target, sets.control])
        figures = {"target_dnll": lost[sets.target], "control_dnll": lost[sets.control]}
        rows.append({"name": name, "weights": mask.size} | figures)
    return rows
