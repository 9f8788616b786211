"""Batches for training a model: every statement and every stretch of text once per round."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator

from knowsub.lm.encode import Batch

SHUFFLED = 8
"""Batches of statements that are drawn together and dealt out by length."""


def statement_batches(told: Batch, size: int, generator: Generator) -> Iterator[Batch]:
    """Yield statements for ever, each once per round, those of a batch about equally long.

    Args:
        told: All statements.
        size: Statements per batch; fewer where there are not so many.
        generator: Source of the order.

    Yields:
        Batches without columns of mere padding.
    """
    lengths = told.lengths
    while True:
        for drawn in torch.randperm(len(told), generator=generator).split(size * SHUFFLED):
            batches = drawn[lengths[drawn].argsort(stable=True)].split(size)
            for index in torch.randperm(len(batches), generator=generator).tolist():
                yield told[batches[index]].trimmed()


def text_batches(blocks: Batch, size: int, generator: Generator) -> Iterator[Batch]:
    """Yield blocks of text for ever, cut anew in every round so that no block comes twice.

    Args:
        blocks: The text in blocks, in order.
        size: Blocks per batch.
        generator: Source of order and cuts.

    Yields:
        Batches of exactly `size` blocks.

    Raises:
        ValueError: If the text has fewer blocks than `size` and one more for the cut.
    """
    tokens, length = blocks.tokens.flatten(), blocks.tokens.shape[1]
    if len(blocks) <= size:
        raise ValueError(
            f"text_blocks: value {size} is not allowed; the text has {len(blocks)} blocks, "
            "one is lost to the cut"
        )
    while True:
        start = int(torch.randint(length, (1,), generator=generator))
        count = (len(tokens) - start) // length
        rows = tokens[start : start + count * length].view(count, length)
        order = torch.randperm(count, generator=generator)
        for chosen in order[: count - count % size].split(size):
            yield Batch(rows[chosen], blocks.reads[:size])
