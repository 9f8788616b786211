"""Statements and text as tensors, with the causal shift settled once, and their moves between devices.

A GPU works through what it is given while the next orders are prepared. To ask it for a value, or
how many entries of a mask are true, is to wait until it has done everything. What a step needs to
know to give its orders therefore stays on the CPU, and goes over as indices.

`Batch.target_mask` marks the positions whose *logits predict* a tail token, and `Batch.labels` is the
token that each position predicts. No other file shifts anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from knowsub.kg.facts import Statement


def to_device_of(tensor: Tensor, other: Tensor) -> Tensor:
    """Return a tensor where another one is; a copy from the CPU to a GPU is not waited for.

    Args:
        tensor: On the CPU, or already there.
        other: Anything on the device.

    Returns:
        The tensor itself if it is there.
    """
    return tensor.to(other.device, non_blocking=other.device.type != "cpu")


def take_rows(kept: Tensor, index: Int[Tensor, " row"] | slice) -> Tensor:
    """Return rows of a tensor on any device, chosen by an index on the CPU.

    Args:
        kept: The tensor.
        index: The rows.

    Returns:
        The rows, where the tensor is.
    """
    return kept[index] if isinstance(index, slice) else kept[to_device_of(index, kept)]


def flat_nonzero(chosen: Tensor) -> Int[Tensor, " place"]:
    """Return where a mask is true, counted through it row by row.

    Args:
        chosen: The mask, of any shape; on a GPU it would be waited for.

    Returns:
        The places in ascending order.
    """
    found: Tensor = torch.nonzero(chosen.flatten())
    return found[:, 0]


PASS = 1 << 15
"""Tokens of one forward pass without a gradient at most."""


@dataclass(frozen=True)
class Batch:
    """Token sequences, padded on the right, and the positions that are read.

    Tokens and positions are best left on the CPU, where the model is or not: what is looked at to
    decide what comes next should not have to be waited for.
    """

    tokens: Int[Tensor, "batch position"]
    """Token ids; padding comes after every read position, so no attention mask is needed."""
    target_mask: Bool[Tensor, "batch position"]
    """True where the logits predict a token that counts."""
    lower_states: Float[Tensor, "batch position hidden"] | None = None
    """Cached states that enter the first masked block, in place of the tokens; see `lm.trunk`.
    They lie where the model is, or on the CPU."""

    def __len__(self) -> int:
        """Return the number of sequences."""
        return self.tokens.shape[0]

    @property
    def labels(self) -> Int[Tensor, "batch position"]:
        """Token that each position predicts; the last position, never read, gets 0."""
        return torch.cat([self.tokens[:, 1:], torch.zeros_like(self.tokens[:, :1])], dim=1)

    @property
    def lengths(self) -> Int[Tensor, " batch"]:
        """Tokens of each sequence up to the last one that is predicted; what follows is padding."""
        positions = torch.arange(2, self.tokens.shape[1] + 2, device=self.tokens.device)
        return (self.target_mask * positions).amax(dim=1)

    @property
    def first_targets(self) -> Bool[Tensor, "batch position"]:
        """Where each sequence reads first: the last position of its prompt."""
        return self.target_mask & (self.target_mask.cumsum(dim=1) == 1)

    def trimmed(self) -> Batch:
        """Return the same sequences without the columns that are padding in all of them."""
        return self.pad_to(int(self.lengths.max()))

    def pad_to(self, width: int) -> Batch:
        """Return the same sequences cut, or padded on the right, to a number of positions."""
        hidden = None if self.lower_states is None else _widened(self.lower_states, width)
        return Batch(_widened(self.tokens, width), _widened(self.target_mask, width), hidden)

    def __getitem__(self, index: Tensor | slice) -> Batch:
        """Return the chosen sequences as a batch of their own."""
        hidden = None if self.lower_states is None else take_rows(self.lower_states, index)
        return Batch(self.tokens[index], self.target_mask[index], hidden)

    def microbatch_slices(self, rows: int) -> list[slice]:
        """Return slices of at most `rows` sequences, fewer where these are long.

        A portion has at most `PASS` tokens, or one sequence.
        """
        size = max(1, min(rows, PASS // max(1, self.tokens.shape[1])))
        return [slice(start, start + size) for start in range(0, len(self), size)]

    def with_lower_states(self, hidden: Float[Tensor, "batch position hidden"]) -> Batch:
        """Return the same sequences with their cached trunk states."""
        return replace(self, lower_states=hidden)

    def unshifted(self) -> Batch:
        """Return the same sequences read one position later: at the tokens themselves.

        Source: `know-subnet` reads its suppression and ControlKG losses there, what follows a tail
        and not what predicts it. For comparison only.
        """
        later = torch.cat(
            [torch.zeros_like(self.target_mask[:, :1]), self.target_mask[:, :-1]], dim=1
        )
        return replace(self, target_mask=later)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on another device."""
        hidden = None if self.lower_states is None else self.lower_states.to(device)
        return Batch(self.tokens.to(device), self.target_mask.to(device), hidden)


def _widened(tensor: Tensor, width: int) -> Tensor:
    cut = tensor[:, :width]
    missing = width - cut.shape[1]
    if missing == 0:
        return cut
    return torch.cat([cut, cut.new_zeros(len(cut), missing, *cut.shape[2:])], dim=1)


def encode_statements(
    tokenizer: PreTrainedTokenizerBase, statements: Sequence[Statement], context: int
) -> Batch:
    """Return statements as one padded batch that reads at the tail.

    The tail's tokens are those that it has after its prompt, also where a tokenizer puts a space
    before every text. A beginning-of-sequence token comes first where the tokenizer adds one.

    Args:
        tokenizer: The model's tokenizer.
        statements: The statements, at least one.
        context: The model's context length [tokens].

    Returns:
        The batch; row i is statement i.

    Raises:
        ValueError: If there is no statement, a prompt or tail has no token, or a statement is
            longer than the context.
    """
    if not statements:
        raise ValueError("no statements to encode")
    rows = _encode(tokenizer, statements, context)
    lengths = torch.tensor([[len(prompt), len(tail)] for prompt, tail in rows])
    prompt, tail = lengths.unbind(dim=1)
    end = (prompt + tail)[:, None]
    position = torch.arange(int(end.max()))
    tokens = torch.zeros(len(rows), len(position), dtype=torch.long)
    tokens[position < end] = torch.tensor([token for row in rows for part in row for token in part])
    reads = (position >= prompt[:, None] - 1) & (position < end - 1)
    return Batch(tokens, reads)


def _encode(
    tokenizer: PreTrainedTokenizerBase, statements: Sequence[Statement], context: int
) -> list[tuple[list[int], list[int]]]:
    """Return the tokens of every prompt and tail."""
    prompts = _ids(tokenizer, [statement.prompt for statement in statements])
    wholes = _ids(tokenizer, [statement.text for statement in statements])
    rows = []
    for statement, prompt, whole in zip(statements, prompts, wholes, strict=True):
        tail = whole[len(prompt) :]
        if whole[: len(prompt)] != prompt:
            tail = list(tokenizer(statement.object, add_special_tokens=False)["input_ids"])
        if not prompt or not tail:
            raise ValueError(f"statement {statement.text!r}: the prompt or the tail has no token")
        if (length := len(prompt) + len(tail)) > context:
            raise ValueError(
                f"statement {statement.text[:60]!r} has {length} tokens, "
                f"the model's context is {context}"
            )
        rows.append((prompt, tail))
    return rows


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Return the tokens of every text, without an end-of-sequence token."""
    rows = tokenizer(texts, verbose=False, return_attention_mask=False)["input_ids"]
    last = tokenizer.eos_token_id
    return [ids[:-1] if ids and ids[-1] == last else ids for ids in rows]


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str, block: int) -> Batch:
    """Return running text as blocks that read at every position but the last.

    Args:
        tokenizer: The model's tokenizer.
        text: The text.
        block: Length of a block [tokens]; what is left over at the end is dropped.

    Returns:
        The batch, one row per block.

    Raises:
        ValueError: If the text is shorter than one block.
    """
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    rows = len(ids) // block
    if rows == 0:
        raise ValueError(f"the text has {len(ids)} tokens, fewer than one block of {block}")
    tokens = torch.tensor(ids[: rows * block]).view(rows, block)
    reads = torch.ones_like(tokens, dtype=torch.bool)
    reads[:, -1] = False
    return Batch(tokens, reads)
