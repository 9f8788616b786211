"""Tail NLL of many statements, each scored once."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from knowsub.kg.triple import Statement
from knowsub.lm.encode import encode_statements
from knowsub.lm.load import context_length
from knowsub.lm.score import score

ROWS = 256
"""Statements per forward pass, of about equal length [statements]."""


class TailScorer:
    """Tail NLL under one model; what was asked before is not computed again."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._known: dict[tuple[str, str], float] = {}

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

    def _score(self, statements: Sequence[Statement]) -> None:
        context = context_length(self._model)
        batch = encode_statements(self._tokenizer, statements, context).to(self._model.device)
        lengths = batch.lengths
        for chosen in lengths.argsort(stable=True).split(ROWS):
            nll = score(self._model, batch[chosen].trimmed(), rows=ROWS).mean_nll
            for index, value in zip(chosen.tolist(), nll.tolist(), strict=True):
                one = statements[index]
                self._known[one.prompt, one.tail] = value
