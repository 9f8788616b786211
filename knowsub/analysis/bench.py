"""A model with statements of target and control ready, to have masks removed one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from knowsub.anatomy import Site
from knowsub.kg.triple import Role, Split, Statement
from knowsub.lm.encode import Batch, encode_statements
from knowsub.lm.load import context_length
from knowsub.lm.score import score
from knowsub.lm.trunk import push, upper_blocks
from knowsub.masks.mask import Mask
from knowsub.masks.removal import removed

ROWS = 256
"""Statements per forward pass."""


class Bench:
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
        self, model: PreTrainedModel, sites: Sequence[Site], batches: Mapping[str, Batch]
    ) -> None:
        first = min(site.block for site in sites)
        self._model, self._sites = model, tuple(sites)
        self._upper = upper_blocks(model, first)
        self._batches = {name: push(model, first, batch) for name, batch in batches.items()}
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
        with removed(self._model, self._sites, mask):
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
            if (statement.nll or 0.0) < (other.nll or 0.0):
                best[statement.fact.key] = statement
    found = list(best.values())
    step = max(1, -(-len(found) // limit))
    return found[::step]


def open_bench(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sites: Sequence[Site],
    statements: Mapping[str, Sequence[Statement]],
    limit: int,
) -> tuple[Bench, dict[str, Sets]]:
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
    return Bench(model, sites, batches), sets
