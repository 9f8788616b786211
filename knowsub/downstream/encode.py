"""Questions as tensors: every distinct token sequence once, and where each choice is read.

A choice is read either where its tokens are predicted (readout `match`, and likelihood), or after
its last token (readout `last`). Where choices of one token are predicted, all of a question's
choices share one sequence, the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from knowsub.downstream.options import Readout
from knowsub.downstream.questions import Question
from knowsub.lm.batch import Batch


@dataclass(frozen=True)
class Encoded:
    """Questions as token sequences, each distinct sequence once."""

    batch: Batch
    """The distinct sequences; reads where a choice is read."""
    row: Int[Tensor, "question choice"]
    """Sequence of each choice."""
    position: Int[Tensor, "question choice token"]
    """Positions at which a choice is read."""
    token: Int[Tensor, "question choice token"]
    """Token of the choice that belongs to the position."""
    used: Bool[Tensor, "question choice token"]
    """True where there is a token; a choice without any does not exist."""
    answer: Int[Tensor, " question"]
    """0-based index of the right choice."""
    features: Float[Tensor, "question choice hidden"] | None = None
    """What the head reads, where it is computed once."""

    def __len__(self) -> int:
        """Return the number of questions."""
        return self.answer.shape[0]

    @property
    def exists(self) -> Bool[Tensor, "question choice"]:
        """True for the choices that a question has."""
        return self.used.any(dim=2)

    def __getitem__(self, index: Tensor) -> Encoded:
        """Return the chosen questions with the sequences that they need."""
        features = None if self.features is None else self.features[index]
        rows, row = torch.unique(self.row[index], return_inverse=True)
        batch = self.batch if features is not None else self.batch[rows]
        return Encoded(
            batch=batch,
            row=row,
            position=self.position[index],
            token=self.token[index],
            used=self.used[index],
            answer=self.answer[index],
            features=features,
        )

    def to(self, device: torch.device | str) -> Encoded:
        """Return the questions on another device, without features."""
        return Encoded(
            batch=self.batch.to(device),
            row=self.row.to(device),
            position=self.position.to(device),
            token=self.token.to(device),
            used=self.used.to(device),
            answer=self.answer.to(device),
        )

    def with_batch(self, batch: Batch) -> Encoded:
        """Return the same questions over the same sequences, with trunk states for example."""
        return replace(self, batch=batch)

    def with_features(self, features: Float[Tensor, "question choice hidden"]) -> Encoded:
        """Return the same questions with what the head reads."""
        return replace(self, features=features)


@dataclass(frozen=True)
class _Read:
    """Where one choice is read."""

    sequence: tuple[int, ...]
    """Tokens up to the last position read."""
    positions: tuple[int, ...]
    """Positions read."""
    tokens: tuple[int, ...]
    """Token of the choice that belongs to each position."""


def encode_questions(
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    readout: Readout,
    context: int,
) -> Encoded:
    """Return questions as one padded batch.

    Prompt and choice are tokenised apart and joined, so that a choice's tokens are the same after
    every prompt.

    Args:
        tokenizer: The model's tokenizer.
        questions: The questions, at least one.
        readout: What will be read; likelihood reads as `match` does.
        context: The model's context length [tokens].

    Returns:
        The encoded questions, in order.

    Raises:
        ValueError: If there is no question, a prompt or choice has no token, or one does not fit
            the context.
    """
    if not questions:
        raise ValueError("no questions to encode")
    reads = [_reads(tokenizer, question, readout, context) for question in questions]
    flat = [(q, c, read) for q, row in enumerate(reads) for c, read in enumerate(row)]
    shape = (len(reads), max(map(len, reads)), max(len(read.tokens) for *_, read in flat))
    distinct = {read.sequence: 0 for *_, read in flat}
    distinct = {sequence: number for number, sequence in enumerate(distinct)}
    row = torch.zeros(shape[:2], dtype=torch.long)
    position, token = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    used = torch.zeros(shape, dtype=torch.bool)
    for question, choice, read in flat:
        place = (question, choice, slice(len(read.tokens)))
        row[question, choice] = distinct[read.sequence]
        position[place], token[place] = torch.tensor(read.positions), torch.tensor(read.tokens)
        used[place] = True
    answer = torch.tensor([question.answer for question in questions])
    batch = _pad(list(distinct), row[..., None].expand(shape)[used], position[used])
    return Encoded(batch, row, position, token, used, answer)


def _reads(
    tokenizer: PreTrainedTokenizerBase, question: Question, readout: Readout, context: int
) -> list[_Read]:
    prompt = list(tokenizer(question.prompt)["input_ids"])
    if prompt and prompt[-1] == tokenizer.eos_token_id:
        prompt = prompt[:-1]
    reads = []
    for text in question.choices:
        choice = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        if not prompt or not choice:
            raise ValueError(f"question {question.id}: the prompt or choice {text!r} has no token")
        start, end = len(prompt), len(prompt) + len(choice)
        if end > context:
            raise ValueError(
                f"question {question.id} has {end} tokens with choice {text!r}, "
                f"the model's context is {context}"
            )
        whole = (*prompt, *choice)
        if readout is Readout.MATCH:
            reads.append(_Read(whole[:-1], tuple(range(start - 1, end - 1)), tuple(choice)))
        else:
            reads.append(_Read(whole, (end - 1,), (choice[-1],)))
    return reads


def _pad(
    sequences: list[tuple[int, ...]], rows: Int[Tensor, " read"], positions: Int[Tensor, " read"]
) -> Batch:
    tokens = torch.zeros(len(sequences), max(map(len, sequences)), dtype=torch.long)
    for number, sequence in enumerate(sequences):
        tokens[number, : len(sequence)] = torch.tensor(sequence)
    reads = torch.zeros_like(tokens, dtype=torch.bool)
    reads[rows, positions] = True
    return Batch(tokens, reads)
