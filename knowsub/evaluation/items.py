"""Statements ready to be scored under many masks: encoded, sorted, trunk computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from knowsub.kg.triple import Fact, Statement
from knowsub.lm.encode import Batch, encode_statements
from knowsub.lm.load import context_length
from knowsub.lm.score import Scores, score
from knowsub.lm.trunk import push

BUCKET = 256
"""Statements per bucket of similar length, and sequences per forward pass."""


@dataclass(frozen=True)
class Items:
    """Statements in their order, the facts they state, and their batches in order of length."""

    statements: tuple[Statement, ...]
    """The statements; every figure keeps their order."""
    facts: tuple[Fact, ...]
    """The distinct facts, in order of first appearance: the unit of all statistics."""
    owner: Int[Tensor, " statement"]
    """Index in `facts` of each statement's fact."""
    rows: tuple[Int[Tensor, " row"], ...]
    """Statements of each bucket."""
    batches: tuple[Batch, ...]
    """Batch of each bucket, with its trunk states where a trunk was given."""

    def __len__(self) -> int:
        """Return the number of statements."""
        return len(self.statements)

    def per_fact(self, values: Shaped[Tensor, " statement"]) -> Float[Tensor, " fact"]:
        """Return the mean of a figure over the statements of each fact.

        Args:
            values: One value per statement, in any unit.

        Returns:
            One value per fact, in the same unit.
        """
        total = torch.zeros(len(self.facts), dtype=torch.float64)
        total.index_add_(0, self.owner, values.double())
        return total / torch.bincount(self.owner, minlength=len(self.facts))


@dataclass(frozen=True)
class Reader:
    """A model with its tokenizer and the place where it is cut: all that encoding needs."""

    model: PreTrainedModel
    """The whole original model."""
    tokenizer: PreTrainedTokenizerBase
    """Its tokenizer."""
    first: int
    """0-based index of the first masked block."""

    def items(self, statements: Sequence[Statement]) -> Items:
        """Return statements ready to be scored by the upper blocks.

        Args:
            statements: The statements, at least one.

        Returns:
            The items, on the model's device.

        Raises:
            ValueError: If there is no statement, or one is empty or longer than the context.
        """
        whole = encode_statements(self.tokenizer, statements, context_length(self.model))
        facts = tuple(dict.fromkeys(statement.fact for statement in statements))
        index = {fact: position for position, fact in enumerate(facts)}
        rows = whole.lengths.sort(stable=True).indices.split(BUCKET)
        return Items(
            statements=tuple(statements),
            facts=facts,
            owner=torch.tensor([index[statement.fact] for statement in statements]),
            rows=rows,
            batches=tuple(self.cached(whole[chosen].trimmed()) for chosen in rows),
        )

    def cached(self, batch: Batch) -> Batch:
        """Return a batch on the model's device with the states that enter the first masked block.

        Args:
            batch: Sequences without cached states.

        Returns:
            The same sequences, cached.
        """
        return push(self.model, self.first, batch.to(self.model.device), rows=BUCKET)


def scored(model: PreTrainedModel, items: Items) -> Scores:
    """Return the scores of items under the model as it is now.

    Args:
        model: The upper blocks, or the whole model if the items carry no trunk states.
        items: The items.

    Returns:
        NLL, rank and correctness per statement, in the order of the statements, on the CPU.
    """
    parts = [score(model, batch, rows=BUCKET) for batch in items.batches]
    order = torch.cat(items.rows).argsort()
    return Scores(
        nll=torch.cat([part.nll for part in parts])[order],
        tokens=torch.cat([part.tokens for part in parts])[order],
        rank=torch.cat([part.rank for part in parts])[order],
        correct=torch.cat([part.correct for part in parts])[order],
    )
