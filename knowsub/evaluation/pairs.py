"""How likely a model finds given tails after given prompts, for many pairs at once.

One-token tails of one prompt are all read off a single forward pass; longer tails are scored as
statements of their own. Choice, prior and head information all ask through this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.evaluation.items import Items, Reader, scored
from knowsub.kg.triple import Statement
from knowsub.lm.score import read_logits


@dataclass(frozen=True)
class Pairs:
    """Pairs of a prompt and a tail that may or may not be its own."""

    row: Int[Tensor, " pair"]
    """Index of the pair's prompt among the prompts."""
    column: Int[Tensor, " pair"]
    """Index of the pair's tail among the tails."""
    prompts: Items
    """The prompts, each once."""
    first: Int[Tensor, " tail"]
    """First token of each tail."""
    length: Int[Tensor, " tail"]
    """Number of tokens of each tail."""
    longer: Items | None
    """The pairs whose tail has several tokens, as statements, in order; None if there are none."""

    @property
    def short(self) -> Bool[Tensor, " pair"]:
        """True where the pair's tail is one token."""
        return self.length[self.column] == 1


def ask(
    reader: Reader, prompts: Sequence[Statement], tails: Sequence[str], pairs: Int[Tensor, "pair 2"]
) -> Pairs:
    """Return pairs ready to be scored.

    Args:
        reader: The original model and where it is cut.
        prompts: Statements whose prompts are used; their own tails play no part.
        tails: Texts of the tails, each with its leading space.
        pairs: Index of the prompt and index of the tail of each pair.

    Returns:
        The pairs.

    Raises:
        ValueError: As in `Reader.items`.
    """
    encoded = [reader.tokenizer(tail, add_special_tokens=False)["input_ids"] for tail in tails]
    length = torch.tensor([len(tokens) for tokens in encoded])
    row, column = pairs.unbind(dim=1)
    longer = [replace(prompts[i], tail=tails[j]) for i, j in pairs[length[column] > 1].tolist()]
    return Pairs(
        row=row,
        column=column,
        prompts=reader.items(prompts),
        first=torch.tensor([tokens[0] for tokens in encoded]),
        length=length,
        longer=reader.items(longer) if longer else None,
    )


@torch.no_grad()
def pair_nll(model: PreTrainedModel, pairs: Pairs) -> Float[Tensor, " pair"]:
    """Return the NLL per token of each pair's tail after its prompt.

    Args:
        model: The upper blocks, as they are now.
        pairs: The pairs.

    Returns:
        NLL per tail token [nats per token], on the CPU.
    """
    result = torch.empty(len(pairs.row))
    short = pairs.short
    if bool(short.any()):
        table = _first_token_nll(model, pairs)
        result[short] = table[pairs.row[short], pairs.column[short]]
    if pairs.longer is not None:
        result[~short] = scored(model, pairs.longer).mean_nll
    return result


def _first_token_nll(model: PreTrainedModel, pairs: Pairs) -> Float[Tensor, "prompt tail"]:
    table = torch.empty(len(pairs.prompts), len(pairs.first))
    for rows, batch in zip(pairs.prompts.rows, pairs.prompts.batches, strict=True):
        asked = replace(batch, reads=batch.first_reads)
        for covered, logits, _ in read_logits(model, asked, rows=len(rows)):
            logits = logits.float()
            chosen = logits[:, pairs.first.to(logits.device)]
            table[rows[covered]] = (logits.logsumexp(dim=1, keepdim=True) - chosen).cpu()
    return table
