"""Statements and text as tensors, with the causal shift settled once, and moves between devices.

`Batch.target_mask` marks positions whose logits *predict* a token that counts; `Batch.labels` is
the token that each position predicts. No other file shifts anything.

A GPU runs asynchronously: reading a value of its, or how many entries of its mask are true, waits
until it has done everything. What decides the shapes of a step therefore stays on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from knowsub.kg.facts import Statement


def to_device_of(tensor: Tensor, other: Tensor) -> Tensor:
    """Move `tensor` to `other`'s device; host-to-device copies are non-blocking."""
    return tensor.to(other.device, non_blocking=other.device.type != "cpu")


def take_rows(tensor: Tensor, index: Int[Tensor, " row"] | slice) -> Tensor:
    """Return rows of a tensor on any device, chosen by an index on the CPU."""
    return tensor[index] if isinstance(index, slice) else tensor[to_device_of(index, tensor)]


def flat_nonzero(mask: Tensor) -> Int[Tensor, " true"]:
    """Return the indices of the true entries of the flattened mask; waits for a GPU."""
    nonzero: Tensor = torch.nonzero(mask.flatten())
    return nonzero[:, 0]


PASS_TOKENS = 1 << 15  # of one forward pass without a gradient, at most


@dataclass(frozen=True)
class Batch:
    """Token sequences, padded on the right, and the positions whose predictions count.

    Tokens and mask are best left on the CPU, also where the model is on a GPU.
    """

    tokens: Int[Tensor, "batch position"]
    """Token ids; padding comes after every target position, so no attention mask is needed."""
    target_mask: Bool[Tensor, "batch position"]
    """True where the logits predict a token that counts: the target positions."""
    lower_states: Float[Tensor, "batch position hidden"] | None = None
    """Cached states that enter the first masked block, in place of the tokens; see `lm.blocks`.
    On the model's device, or on the CPU."""

    def __len__(self) -> int:
        """Return the number of sequences."""
        return self.tokens.shape[0]

    @property
    def labels(self) -> Int[Tensor, "batch position"]:
        """Token that each position predicts; the last position, never a target, gets 0."""
        return torch.cat([self.tokens[:, 1:], torch.zeros_like(self.tokens[:, :1])], dim=1)

    @property
    def lengths(self) -> Int[Tensor, " batch"]:
        """Tokens of each sequence up to the last one that is predicted; what follows is padding."""
        positions = torch.arange(2, self.tokens.shape[1] + 2, device=self.tokens.device)
        return (self.target_mask * positions).amax(dim=1)

    @property
    def first_targets(self) -> Bool[Tensor, "batch position"]:
        """The first target position of each sequence: the last position of its prompt."""
        return self.target_mask & (self.target_mask.cumsum(dim=1) == 1)

    def trimmed(self) -> Batch:
        """Return the same sequences without the columns that are padding in all of them."""
        return self.pad_to(int(self.lengths.max()))

    def pad_to(self, width: int) -> Batch:
        """Return the same sequences cut, or padded on the right, to a number of positions."""
        states = None if self.lower_states is None else _pad_to(self.lower_states, width)
        return Batch(_pad_to(self.tokens, width), _pad_to(self.target_mask, width), states)

    def __getitem__(self, index: Tensor | slice) -> Batch:
        """Return the chosen sequences as a batch of their own."""
        states = None if self.lower_states is None else take_rows(self.lower_states, index)
        return Batch(self.tokens[index], self.target_mask[index], states)

    def microbatch_slices(self, rows: int) -> list[slice]:
        """Return slices of at most `rows` sequences and `PASS_TOKENS` tokens, or one sequence."""
        size = max(1, min(rows, PASS_TOKENS // max(1, self.tokens.shape[1])))
        return [slice(start, start + size) for start in range(0, len(self), size)]

    def with_lower_states(self, states: Float[Tensor, "batch position hidden"]) -> Batch:
        """Return the same sequences with cached states that enter the first masked block."""
        return replace(self, lower_states=states)

    def unshifted(self) -> Batch:
        """Return the same sequences, their targets one position later: at the tokens themselves.

        Source: `know-subnet` reads its suppression and ControlKG losses there, at what follows an
        object and not at what predicts it. For comparison only.
        """
        mask = self.target_mask
        return replace(
            self, target_mask=torch.cat([torch.zeros_like(mask[:, :1]), mask[:, :-1]], 1)
        )

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on another device."""
        states = None if self.lower_states is None else self.lower_states.to(device)
        return Batch(self.tokens.to(device), self.target_mask.to(device), states)


def _pad_to(tensor: Tensor, width: int) -> Tensor:
    """Cut or zero-pad dimension 1 to a width."""
    cut = tensor[:, :width]
    missing = width - cut.shape[1]
    if missing == 0:
        return cut
    return torch.cat([cut, cut.new_zeros(len(cut), missing, *cut.shape[2:])], dim=1)


def encode_statements(
    tokenizer: PreTrainedTokenizerBase, statements: Sequence[Statement], context: int
) -> Batch:
    """Return statements as one padded batch whose targets are the tokens of the objects.

    Args:
        tokenizer: The model's tokenizer.
        statements: The statements, at least one.
        context: The model's context length [tokens].

    Returns:
        The batch; row i is statement i.

    Raises:
        ValueError: If there is no statement, a prompt or object has no token, or a statement is
            longer than the context.
    """
    if not statements:
        raise ValueError("no statements to encode")
    prompts = [statement.prompt for statement in statements]
    objects = [statement.object for statement in statements]
    pairs = _encode_pairs(tokenizer, prompts, objects)
    for statement, (prompt, answer) in zip(statements, pairs, strict=True):
        if not prompt or not answer:
            raise ValueError(f"statement {statement.text!r}: the prompt or the object has no token")
        if (length := len(prompt) + len(answer)) > context:
            raise ValueError(
                f"statement {statement.text[:60]!r} has {length} tokens, "
                f"the model's context is {context}"
            )
    tokens = pad_sequence([torch.tensor(prompt + answer) for prompt, answer in pairs], True)
    start = torch.tensor([len(prompt) for prompt, _ in pairs])[:, None]
    end = torch.tensor([len(prompt) + len(answer) for prompt, answer in pairs])[:, None]
    position = torch.arange(tokens.shape[1])
    return Batch(tokens, (position >= start - 1) & (position < end - 1))


def _encode_pairs(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], objects: Sequence[str]
) -> list[tuple[list[int], list[int]]]:
    """Return the tokens of every prompt and of the object after it.

    An object's tokens are those that it has after its prompt. Where a tokenizer splits the prompt
    otherwise once the object follows, they are those of the object alone. In a chat, the prompt is
    the user's turn and the object begins the reply.
    """
    if is_chat(tokenizer):
        prompts = [as_prompt(tokenizer, prompt) for prompt in prompts]
        objects = [answer.lstrip() for answer in objects]
    texts = [prompt + answer for prompt, answer in zip(prompts, objects, strict=True)]
    rows = zip(tokenize(tokenizer, prompts), tokenize(tokenizer, texts), objects, strict=True)
    return [
        (prompt, text[len(prompt) :])
        if text[: len(prompt)] == prompt
        else (prompt, tokenize_alone(tokenizer, answer))
        for prompt, text, answer in rows
    ]


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the tokens of every text, without an end-of-sequence token."""
    rows = tokenizer(list(texts), verbose=False, return_attention_mask=False)["input_ids"]
    end = tokenizer.eos_token_id
    return [ids[:-1] if ids and ids[-1] == end else ids for ids in rows]


_TURNS = "knowsub_turns"
"""Attribute of a tokenizer whose prompts are turns of a chat: what stands before and after them."""
_CONTENT = "knowsub content"


def open_chat(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make every prompt that is encoded from now on the user's turn of the model's chat template.

    Running text stays as it is.

    Args:
        tokenizer: The tokenizer, changed in place.

    Raises:
        ValueError: If it has no chat template, or one that changes what the user says.
    """
    if tokenizer.chat_template is None:
        raise ValueError("the model's tokenizer has no chat template, as base models have none")
    turn = [{"role": "user", "content": _CONTENT}]
    text = str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
    before, found, after = text.partition(_CONTENT)
    if not found:
        raise ValueError("the model's chat template changes what the user says")
    # The tokenizer itself adds what opens a text.
    opening = "".join(tokenizer.convert_ids_to_tokens(opening_tokens(tokenizer)))
    setattr(tokenizer, _TURNS, (before.removeprefix(opening), after))


def is_chat(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether prompts are turns of a chat."""
    return hasattr(tokenizer, _TURNS)


def as_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """Return the text that a model reads before its answer: the prompt, in a chat the turn."""
    if not is_chat(tokenizer):
        return prompt
    before, after = getattr(tokenizer, _TURNS)
    return f"{before}{prompt.strip()}{after}"


def tokenize_alone(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the tokens of a text without special tokens."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def opening_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the special tokens that a tokenizer puts before a text, such as the BOS token."""
    (ids,), alone = tokenize(tokenizer, ["a"]), tokenize_alone(tokenizer, "a")
    special = frozenset(tokenizer.all_special_ids)
    return list(takewhile(special.__contains__, ids[: max(0, len(ids) - len(alone))]))


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str, block: int) -> Batch:
    """Return running text as blocks whose targets are all positions but the last.

    Every block begins as a statement does: with the BOS token where the tokenizer adds one. A model
    that was trained with it computes its first states, which all others attend to, wrongly without.

    Args:
        tokenizer: The model's tokenizer.
        text: The text.
        block: Length of a block, its BOS token included [tokens]; what is left over at the end of
            the text is dropped.

    Returns:
        The batch, one row per block. The BOS token is never predicted.

    Raises:
        ValueError: If the text is shorter than one block, or a block has no room for text.
    """
    ids, opening = tokenize_alone(tokenizer, text), opening_tokens(tokenizer)
    width = block - len(opening)
    if width < 1:
        raise ValueError(f"a block of {block} tokens has no room for text after {opening}")
    rows = len(ids) // width
    if rows == 0:
        raise ValueError(f"the text has {len(ids)} tokens, fewer than one block of {width}")
    body = torch.tensor(ids[: rows * width]).view(rows, width)
    tokens = torch.cat([torch.tensor(opening, dtype=torch.long).expand(rows, -1), body], dim=1)
    target_mask = torch.ones_like(tokens, dtype=torch.bool)
    target_mask[:, -1] = False
    target_mask[:, : max(0, len(opening) - 1)] = False
    return Batch(tokens, target_mask)
