"""Tail NLL of many statements, each scored once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from knowsub.kg.triple import Statement
from knowsub.lm.encode import encode_statements
from knowsub.lm.load import context_length
from knowsub.lm.score import score
from knowsub.lm.trunk import last_hidden

ROWS = 256
"""Statements per forward pass, of about equal length [statements]."""


class TailScorer:
    """Tail NLL under one model; what was asked before is not computed again."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._known: dict[tuple[str, str], float] = {}
        self._asked: tuple[tuple[str, ...], Tensor] | None = None

    def __call__(self, statements: Sequence[Statement]) -> list[float]:
        """Return the tail NLL of every statement [nats per tail token].

        Args:
            statements: The statements; those of equal prompt and tail are scored once.

        Returns:
            One value per statement.

        Raises:
            ValueError: As in `encode_statements`.
        """
        wanted = {(one.prompt, one.tail): one for one in statements}
        new = [one for words, one in wanted.items() if words not in self._known]
        if new:
            self._score(new)
        return [self._known[one.prompt, one.tail] for one in statements]

    @torch.no_grad()
    def first_tokens(
        self, statements: Sequence[Statement], tails: Sequence[str]
    ) -> list[list[float]]:
        """Return how probable each tail's first token is after each prompt.

        Args:
            statements: The statements; their own tails do not count.
            tails: Texts of tails, with their leading spaces.

        Returns:
            One row per statement, one probability per tail.

        Raises:
            ValueError: As in `encode_statements`.
        """
        context = context_length(self._model)
        named = [replace(statements[0], tail=tail) for tail in tails]
        batch = encode_statements(self._tokenizer, named, context)
        tokens = [
            row.labels[row.reads][0] for row in (batch[slice(i, i + 1)] for i in range(len(batch)))
        ]
        head = self._model.get_output_embeddings()
        wanted = torch.stack(tokens).to(self._model.device)
        found = [
            head(states).float().softmax(dim=-1)[:, wanted]
            for states in self._after(statements).split(ROWS)
        ]
        rows: list[list[float]] = torch.cat(found).tolist()
        return rows

    def _after(self, statements: Sequence[Statement]) -> Float[Tensor, "statement hidden"]:
        """Return the final states after the prompts; those of the last call are kept."""
        prompts = tuple(one.prompt for one in statements)
        if self._asked is None or self._asked[0] != prompts:
            context = context_length(self._model)
            told = encode_statements(self._tokenizer, statements, context).to(self._model.device)
            order = told.lengths.argsort(stable=True)
            parts = [told[chosen].trimmed() for chosen in order.split(ROWS)]
            states = torch.cat([last_hidden(self._model, part)[part.first_reads] for part in parts])
            self._asked = (prompts, states[order.argsort()])
        return self._asked[1]

    def _score(self, statements: Sequence[Statement]) -> None:
        context = context_length(self._model)
        batch = encode_statements(self._tokenizer, statements, context).to(self._model.device)
        lengths = batch.lengths
        for chosen in lengths.argsort(stable=True).split(ROWS):
            nll = score(self._model, batch[chosen].trimmed(), rows=ROWS).mean_nll
            for index, value in zip(chosen.tolist(), nll.tolist(), strict=True):
                one = statements[index]
                self._known[one.prompt, one.tail] = value
