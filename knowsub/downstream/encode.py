"""Questions as tensors, and what a model's final states say about each choice.

Every distinct token sequence is encoded once. A choice is read either where its tokens are
predicted (readout `match`, and likelihood), or after its last token (readout `last`). Where choices
of one token are predicted, all of a question's choices share one sequence, the prompt.

Readout `match` takes the states that predict the tokens of a choice, times the output embeddings of
those tokens, element by element, averaged over the choice's tokens. With all weights of the
multiple-choice head equal it is the LM head, so the head learns which of the model's own evidence
for a choice to trust.

Readout `last` takes the state of the last token after prompt and choice, as the multiple-choice
head of GPT-2's double-heads model does. It needs a model whose states say how well the text just
read fits what came before; a model trained to predict objects only has no reason to: on the
embedded model the head then stays near .5 on other questions, whatever is removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from knowsub.downstream.options import Readout
from knowsub.downstream.questions import Question
from knowsub.lm.batch import Batch, tokenize, tokenize_alone
from knowsub.lm.blocks import last_hidden
from knowsub.lm.head import lm_head


@dataclass(frozen=True)
class EncodedQuestions:
    """Questions as token sequences, each distinct sequence once."""

    batch: Batch
    """The distinct sequences; its target mask marks where a choice is read."""
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

    def __getitem__(self, index: Tensor) -> EncodedQuestions:
        """Return the chosen questions with the sequences that they need."""
        features = None if self.features is None else self.features[index]
        rows, row = torch.unique(self.row[index], return_inverse=True)
        return EncodedQuestions(
            batch=self.batch if features is not None else self.batch[rows],
            row=row,
            position=self.position[index],
            token=self.token[index],
            used=self.used[index],
            answer=self.answer[index],
            features=features,
        )

    def to(self, device: torch.device | str) -> EncodedQuestions:
        """Return the questions on another device, without features."""
        return EncodedQuestions(
            batch=self.batch.to(device),
            row=self.row.to(device),
            position=self.position.to(device),
            token=self.token.to(device),
            used=self.used.to(device),
            answer=self.answer.to(device),
        )

    def chunks(self, size: int) -> tuple[Int[Tensor, " question"], ...]:
        """Return the indices of the questions, at most `size` at a time."""
        return torch.split(torch.arange(len(self), device=self.answer.device), size)


def encode_questions(
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    readout: Readout,
    context: int,
) -> EncodedQuestions:
    """Return questions as one padded batch.

    Prompt and choice are tokenized apart and joined, so that a choice's tokens are the same after
    every prompt. `context` is the model's context length [tokens]; likelihood reads as `match`
    does. A ValueError says if there is no question, a prompt or choice has no token, or one does
    not fit the context.
    """
    if not questions:
        raise ValueError("no questions to encode")
    encoded = [_encode(tokenizer, question, readout, context) for question in questions]
    flat = [(q, c, each) for q, choices in enumerate(encoded) for c, each in enumerate(choices)]
    shape = (len(encoded), max(map(len, encoded)), max(len(each.tokens) for *_, each in flat))
    sequences = list(dict.fromkeys(each.sequence for *_, each in flat))
    row_of = {sequence: number for number, sequence in enumerate(sequences)}
    row = torch.zeros(shape[:2], dtype=torch.long)
    position, token = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    used = torch.zeros(shape, dtype=torch.bool)
    for question, choice, each in flat:
        index = (question, choice, slice(len(each.tokens)))
        row[question, choice] = row_of[each.sequence]
        position[index], token[index] = torch.tensor(each.positions), torch.tensor(each.tokens)
        used[index] = True
    tokens = torch.zeros(len(sequences), max(map(len, sequences)), dtype=torch.long)
    for number, sequence in enumerate(sequences):
        tokens[number, : len(sequence)] = torch.tensor(sequence)
    read = torch.zeros_like(tokens, dtype=torch.bool)
    read[row[..., None].expand(shape)[used], position[used]] = True
    answer = torch.tensor([question.answer for question in questions])
    return EncodedQuestions(Batch(tokens, read), row, position, token, used, answer)


@dataclass(frozen=True)
class _EncodedChoice:
    """Where one choice is read."""

    sequence: tuple[int, ...]
    """Tokens up to the last position read."""
    positions: tuple[int, ...]
    """Positions read."""
    tokens: tuple[int, ...]
    """Token of the choice that belongs to each position."""


def _encode(
    tokenizer: PreTrainedTokenizerBase, question: Question, readout: Readout, context: int
) -> list[_EncodedChoice]:
    (prompt,) = tokenize(tokenizer, [question.prompt])
    encoded = []
    for text in question.choices:
        choice = tokenize_alone(tokenizer, text)
        if not prompt or not choice:
            raise ValueError(f"question {question.id}: the prompt or choice {text!r} has no token")
        start, end = len(prompt), len(prompt) + len(choice)
        if end > context:
            raise ValueError(
                f"question {question.id} has {end} tokens with choice {text!r}, "
                f"the model's context is {context}"
            )
        whole = (*prompt, *choice)
        if readout is Readout.MATCH:  # logits at a position predict the next token
            positions = tuple(range(start - 1, end - 1))
            encoded.append(_EncodedChoice(whole[:-1], positions, tuple(choice)))
        else:
            encoded.append(_EncodedChoice(whole, (end - 1,), (choice[-1],)))
    return encoded


def features(
    model: PreTrainedModel, encoded: EncodedQuestions, readout: Readout
) -> Float[Tensor, "question choice hidden"]:
    """Return what the multiple-choice head reads of every choice, zero for those that do not exist.

    `model` may be its upper part alone, where the batch carries the states that enter it. A bias,
    scale or cap of the LM head is no part of `match`: the multiple-choice head is learned.
    """
    if encoded.features is not None:
        return encoded.features
    hidden = last_hidden(model, encoded.batch)
    read = hidden[encoded.row[..., None], encoded.position]  # question choice token hidden
    if readout is Readout.MATCH:
        read = read * model.get_output_embeddings().weight[encoded.token]
    used = encoded.used[..., None]
    return (read * used).sum(dim=2) / used.sum(dim=2).clamp_min(1)


@torch.no_grad()
def with_features(
    model: PreTrainedModel, encoded: EncodedQuestions, readout: Readout, size: int = 256
) -> EncodedQuestions:
    """Return questions with what the head reads of them, computed `size` questions at a time."""
    parts = [features(model, encoded[index], readout) for index in encoded.chunks(size)]
    return replace(encoded, features=torch.cat(parts))


@torch.no_grad()
def choice_nll(
    model: PreTrainedModel, encoded: EncodedQuestions, size: int = 64
) -> Float[Tensor, "question choice"]:
    """Return the NLL of every choice after its prompt, without any multiple-choice head.

    Args:
        model: The model, or its upper part where the batch carries the states that enter it.
        encoded: The questions, encoded for readout `match`.
        size: Questions per forward pass.

    Returns:
        Mean NLL of each choice's tokens [nats per token]; inf for a choice that does not exist. The
        lowest is the model's answer.
    """
    head, parts = lm_head(model), []
    for index in encoded.chunks(size):
        part = encoded[index]
        rows = part.row[..., None].expand_as(part.position)[part.used]
        pairs = torch.stack([rows, part.position[part.used]], dim=1)
        read, inverse = torch.unique(
            pairs, dim=0, return_inverse=True
        )  # one logit row per position
        hidden = last_hidden(model, part.batch)[read[:, 0], read[:, 1]]
        log_probs = torch.log_softmax(head(hidden).float(), dim=-1)
        nll = -log_probs[inverse, part.token[part.used]]
        table = torch.zeros(part.used.shape, device=nll.device)
        table[part.used] = nll
        mean = table.sum(dim=2) / part.used.sum(dim=2).clamp_min(1)
        parts.append(mean.masked_fill(~part.exists, torch.inf))
    return torch.cat(parts)
