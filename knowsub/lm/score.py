"""What a model says about the tokens that a batch reads: NLL, rank and correctness."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.lm.encode import Batch
from knowsub.lm.placing import beside
from knowsub.lm.trunk import last_hidden

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


def read_logits(
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
        states = last_hidden(model, part)[part.reads]
        yield covered, head(states), beside(part.labels[part.reads], states)


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
    counts, head = batch.reads.sum(dim=1), model.get_output_embeddings()
    losses, ranks = [torch.zeros(0)], [torch.zeros(0, dtype=torch.long)]
    for covered in batch.portions(rows):
        part = batch[covered]
        read = last_hidden(model, part)[part.reads]
        labels = beside(part.labels[part.reads], read)
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
