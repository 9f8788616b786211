"""NLL, rank and correctness of the tokens that a batch asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from knowsub.kg.facts import Statement
from knowsub.lm.batch import Batch, encode_statements, to_device_of
from knowsub.lm.blocks import last_hidden
from knowsub.lm.load import context_length

HELD = 1 << 24
"""Logits that scoring holds at a time: 64 MiB of them in float32."""


@dataclass(frozen=True)
class Scores:
    """Figures per sequence, over the positions that the batch reads."""

    nll: Float[Tensor, " batch"]
    """Summed negative log-likelihood of the read tokens [nats]."""
    tokens: Int[Tensor, " batch"]
    """Number of read tokens."""
    rank: Int[Tensor, " batch"]
    """Worst 0-based vocabulary rank among the read tokens; 0 = all were the top answer."""
    correct: Bool[Tensor, " batch"]
    """True if every read token was the model's top answer."""

    @property
    def mean_nll(self) -> Float[Tensor, " batch"]:
        """NLL per read token of each sequence [nats per token]."""
        return self.nll / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(token-weighted mean NLL) over the whole set."""
        return float(torch.exp(self.nll.double().sum() / self.tokens.sum()))


def target_logits(
    model: PreTrainedModel, batch: Batch, rows: int = 64
) -> Iterator[tuple[slice, Float[Tensor, "read vocab"], Int[Tensor, " read"]]]:
    """Yield the logits at the read positions, a few sequences at a time.

    The LM head is applied only at the positions that are read.

    Args:
        model: A model, or its upper part where the batch carries trunk states.
        batch: The sequences.
        rows: Sequences per forward pass.

    Yields:
        The sequences covered, their logits at read positions (row-major), the tokens predicted.
    """
    head = model.get_output_embeddings()
    for start in range(0, len(batch), rows):
        covered = slice(start, start + rows)
        part = batch[covered]
        states = last_hidden(model, part)[part.target_mask]
        yield covered, head(states), to_device_of(part.labels[part.target_mask], states)


@torch.no_grad()
def score(model: PreTrainedModel, batch: Batch, rows: int = 64) -> Scores:
    """Return NLL, rank and correctness of the read tokens of every sequence.

    Args:
        model: A model, or its upper part where the batch carries trunk states.
        batch: The sequences; each must read at least one position.
        rows: Sequences per forward pass.

    Returns:
        The scores, on the CPU.
    """
    counts, head = batch.target_mask.sum(dim=1), model.get_output_embeddings()
    losses, ranks = [torch.zeros(0)], [torch.zeros(0, dtype=torch.long)]
    for covered in batch.microbatch_slices(rows):
        part = batch[covered]
        read = last_hidden(model, part)[part.target_mask]
        labels = to_device_of(part.labels[part.target_mask], read)
        most = max(1, HELD // head.weight.shape[0])
        for states, told in zip(read.split(most), labels.split(most), strict=True):
            logits = head(states).float()
            true = logits.gather(1, told[:, None])
            losses.append((logits.logsumexp(dim=1) - true[:, 0]).cpu())
            ranks.append((logits > true).sum(dim=1).cpu())
    tokens = counts.cpu()
    owner = torch.repeat_interleave(torch.arange(len(batch)), tokens)
    nll = torch.zeros(len(batch)).index_add_(0, owner, torch.cat(losses))
    rank = torch.zeros(len(batch), dtype=torch.long)
    rank.scatter_reduce_(0, owner, torch.cat(ranks), "amax")
    return Scores(nll=nll, tokens=tokens, rank=rank, correct=rank == 0)


ROWS = 256
"""Statements per forward pass, of about equal length [statements]."""


class ObjectScorer:
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
        wanted = {(one.prompt, one.object): one for one in statements}
        new = [one for words, one in wanted.items() if words not in self._known]
        if new:
            self._score(new)
        return [self._known[one.prompt, one.object] for one in statements]

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
        named = [replace(statements[0], object=tail) for tail in tails]
        batch = encode_statements(self._tokenizer, named, context)
        tokens = [
            row.labels[row.target_mask][0]
            for row in (batch[slice(i, i + 1)] for i in range(len(batch)))
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
            states = torch.cat(
                [last_hidden(self._model, part)[part.first_targets] for part in parts]
            )
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
                self._known[one.prompt, one.object] = value
