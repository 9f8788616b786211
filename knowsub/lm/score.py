"""NLL, rank and correctness of the target tokens of a batch."""

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
from knowsub.lm.head import lm_head
from knowsub.lm.load import context_length
from knowsub.progress import with_progress

MAX_LOGITS = 1 << 24  # that scoring holds at a time: 64 MiB in float32


@dataclass(frozen=True)
class Scores:
    """Scores of each sequence, over the target tokens of the batch."""

    nll: Float[Tensor, " batch"]
    """Summed negative log-likelihood of the target tokens [nats]."""
    tokens: Int[Tensor, " batch"]
    """Number of target tokens."""
    rank: Int[Tensor, " batch"]
    """Worst 0-based vocabulary rank among the target tokens; 0 = all were the top answer."""
    correct: Bool[Tensor, " batch"]
    """True if every target token was the model's top answer."""

    @property
    def mean_nll(self) -> Float[Tensor, " batch"]:
        """NLL per target token of each sequence [nats per token]."""
        return self.nll / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(token-weighted mean NLL) over the whole set."""
        return float(torch.exp(self.nll.double().sum() / self.tokens.sum()))


class NotFiniteError(ValueError):
    """A figure that is no number; a comparison with it would count as right.

    Args:
        row: Index of the sequence.
        dtype: Number format of the model's weights.
        what: What is not finite, and of what.
    """

    def __init__(self, row: int, dtype: torch.dtype, what: str) -> None:
        self.row, self.dtype = row, dtype
        name = str(dtype).removeprefix("torch.")
        advice = "" if dtype == torch.float32 else "; open the model in float32 (pretrain.dtype)"
        super().__init__(f"{what} is not finite: the model overflows in {name}{advice}")

    def of(self, statement: Statement) -> NotFiniteError:
        """Return the same error, naming a statement."""
        return NotFiniteError(self.row, self.dtype, f"the NLL of {statement.text!r}")


def require_finite(values: Float[Tensor, " row"], dtype: torch.dtype, what: str) -> None:
    """Raise NotFiniteError with the first row whose value is no number, or is infinite.

    Args:
        values: One value per sequence.
        dtype: Number format of the model's weights.
        what: What the values are, for the message.

    Raises:
        NotFiniteError: If there is such a row.
    """
    bad = ~values.isfinite()
    if bool(bad.any()):
        row = int(bad.nonzero()[0, 0])
        raise NotFiniteError(row, dtype, f"the {what} of sequence {row + 1}")


def target_logits(
    model: PreTrainedModel, batch: Batch, rows: int = 64
) -> Iterator[tuple[slice, Float[Tensor, "target vocab"], Int[Tensor, " target"]]]:
    """Yield the logits at the target positions, and only there, a few sequences at a time.

    Args:
        model: A model, or its upper part where the batch has cached lower states.
        batch: The sequences.
        rows: Sequences per forward pass.

    Yields:
        The sequences covered, their logits at target positions (row-major), the target tokens.

    Raises:
        NotFiniteError: If a logit is NaN or infinite.
    """
    head = lm_head(model)
    for start in range(0, len(batch), rows):
        covered = slice(start, start + rows)
        part = batch[covered]
        states = last_hidden(model, part)[part.target_mask]
        logits = head(states)
        require_finite(logits.detach().sum(dim=1, dtype=torch.float64), model.dtype, "logits")
        yield covered, logits, to_device_of(part.labels[part.target_mask], states)


@torch.no_grad()
def score(model: PreTrainedModel, batch: Batch, rows: int = 64) -> Scores:
    """Return NLL, rank and correctness of the target tokens of every sequence.

    Args:
        model: A model, or its upper part where the batch has cached lower states.
        batch: The sequences; each must have at least one target.
        rows: Sequences per forward pass.

    Returns:
        The scores, on the CPU.

    Raises:
        NotFiniteError: If an NLL is NaN or infinite, as where float16 overflows.
    """
    head = lm_head(model)
    max_targets = max(1, MAX_LOGITS // head.weight.shape[0])
    losses, ranks = [torch.zeros(0)], [torch.zeros(0, dtype=torch.long)]
    for covered in batch.microbatch_slices(rows):
        part = batch[covered]
        states = last_hidden(model, part)[part.target_mask]  # (target, hidden)
        labels = to_device_of(part.labels[part.target_mask], states)
        parts = list(zip(states.split(max_targets), labels.split(max_targets), strict=True))
        for x, y in with_progress(parts, f"scoring {len(part)} sequences"):
            logits = head(x).float()  # (target, vocab)
            label_logit = logits.gather(1, y[:, None])
            losses.append((logits.logsumexp(dim=1) - label_logit[:, 0]).cpu())
            ranks.append((logits > label_logit).sum(dim=1).cpu())
    tokens = batch.target_mask.sum(dim=1).cpu()
    sequence = torch.repeat_interleave(torch.arange(len(batch)), tokens)  # of each target
    nll = torch.zeros(len(batch)).index_add_(0, sequence, torch.cat(losses))
    require_finite(nll, model.dtype, "NLL")
    rank = torch.zeros(len(batch), dtype=torch.long)
    rank.scatter_reduce_(0, sequence, torch.cat(ranks), "amax")
    return Scores(nll=nll, tokens=tokens, rank=rank, correct=rank == 0)


class ObjectScorer:
    """NLL of the objects of statements under one model; each statement is scored once."""

    ROWS = 256  # statements of about equal length per forward pass

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._scores: dict[tuple[str, str], tuple[float, int]] = {}  # (prompt, object) -> NLL, rank
        self._last: tuple[tuple[str, ...], Tensor] | None = None  # prompts, their final states

    def __call__(self, statements: Sequence[Statement]) -> list[float]:
        """Return the NLL of every statement's object [nats per token of the object].

        Raises NotFiniteError, naming the statement, if one is no number.
        """
        return [nll for nll, _ in self._score(statements)]

    def ranks(self, statements: Sequence[Statement]) -> list[int]:
        """Return the 0-based vocabulary rank of every statement's object, its worst token's."""
        return [rank for _, rank in self._score(statements)]

    def _score(self, statements: Sequence[Statement]) -> list[tuple[float, int]]:
        """Return NLL and rank of every statement's object, each computed once."""
        pairs = {(statement.prompt, statement.object): statement for statement in statements}
        new = [statement for pair, statement in pairs.items() if pair not in self._scores]
        if new:
            batch = self._encode(new)
            groups = self._by_length(batch)
            for rows in with_progress(groups, f"scoring {len(new)} statements"):
                try:
                    scores = score(self._model, batch[rows].trimmed(), rows=self.ROWS)
                except NotFiniteError as error:
                    raise error.of(new[int(rows[error.row])]) from None
                values = zip(scores.mean_nll.tolist(), scores.rank.tolist(), strict=True)
                for index, value in zip(rows.tolist(), values, strict=True):
                    self._scores[new[index].prompt, new[index].object] = value
        return [self._scores[statement.prompt, statement.object] for statement in statements]

    def object_tokens(self, statements: Sequence[Statement]) -> list[int]:
        """Return the number of tokens of every statement's object (errors: `encode_statements`)."""
        counts: list[int] = self._encode(statements).target_mask.sum(dim=1).tolist()
        return counts

    @torch.no_grad()
    def first_tokens(
        self, statements: Sequence[Statement], objects: Sequence[str]
    ) -> list[list[float]]:
        """Return how probable each object's first token is after each prompt.

        Args:
            statements: The statements; their own objects do not count.
            objects: Texts of objects, with their leading spaces.

        Returns:
            One row per statement, one probability per object.

        Raises:
            ValueError: As in `encode_statements`, or if a probability is not finite.
        """
        batch = self._encode([replace(statements[0], object=text) for text in objects])
        tokens = batch.labels[batch.first_targets]  # (object,)
        head = lm_head(self._model)
        probabilities = [
            head(states).float().softmax(dim=-1)[:, tokens]
            for states in self._prompt_states(statements).split(self.ROWS)
        ]
        require_finite(torch.cat(probabilities).sum(dim=1), self._model.dtype, "prediction")
        rows: list[list[float]] = torch.cat(probabilities).tolist()
        return rows

    def _prompt_states(self, statements: Sequence[Statement]) -> Float[Tensor, "statement hidden"]:
        """Return the final states after the prompts; those of the last call are kept."""
        prompts = tuple(statement.prompt for statement in statements)
        if self._last is None or self._last[0] != prompts:
            batch = self._encode(statements)
            order = self._by_length(batch)
            parts = [batch[rows].trimmed() for rows in order]
            states = [last_hidden(self._model, part)[part.first_targets] for part in parts]
            self._last = (prompts, torch.cat(states)[torch.cat(order).argsort()])
        return self._last[1]

    def _encode(self, statements: Sequence[Statement]) -> Batch:
        batch = encode_statements(self._tokenizer, statements, context_length(self._model))
        return batch.to(self._model.device)

    def _by_length(self, batch: Batch) -> tuple[Int[Tensor, " row"], ...]:
        """Return the rows of a batch in groups of about equal length."""
        groups: tuple[Tensor, ...] = batch.lengths.argsort(stable=True).split(self.ROWS)
        return groups
