from __future__ import annotations

from itertools import islice

import pytest
import torch

from knowsub.embedded.model import SHUFFLED, statement_batches, text_batches
from knowsub.lm.batch import Batch


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int) -> Batch:
    """Return statements told apart by their first token, of 3 to 9 tokens."""
    tokens, reads = torch.zeros(count, 9, dtype=torch.long), torch.zeros(count, 9, dtype=torch.bool)
    for row in range(count):
        length = 3 + row % 7
        tokens[row, :length] = row + 1
        reads[row, length - 2] = True
    return Batch(tokens, reads)


def test_every_statement_comes_once_per_round() -> None:
    batches = islice(statement_batches(numbered(50), 8, generator()), 7)
    assert sorted(torch.cat([one.tokens[:, 0] for one in batches]).tolist()) == list(range(1, 51))


def test_statements_of_a_batch_are_about_equally_long() -> None:
    sorted_out = list(islice(statement_batches(numbered(8 * SHUFFLED), 8, generator()), SHUFFLED))
    assert sum(one.tokens.numel() for one in sorted_out) < 0.8 * 8 * SHUFFLED * 9
    assert all(int(one.target_mask.sum()) == 8 for one in sorted_out)


def test_no_token_of_the_text_comes_twice_in_a_round() -> None:
    text = Batch(torch.arange(100).view(20, 5), torch.ones(20, 5, dtype=torch.bool))
    seen = torch.cat(
        [one.tokens.flatten() for one in islice(text_batches(text, 4, generator()), 4)]
    )
    assert len(set(seen.tolist())) == 80
    assert torch.equal(seen.view(-1, 5) - seen.view(-1, 5)[:, :1], torch.arange(5).repeat(16, 1))


def test_equal_seeds_give_equal_batches() -> None:
    rounds = []
    for seed in (1, 1, 2):
        batches = islice(statement_batches(numbered(50), 8, generator(seed)), 5)
        rounds.append(torch.cat([one.tokens[:, 0] for one in batches]))
    assert torch.equal(rounds[0], rounds[1])
    assert not torch.equal(rounds[0], rounds[2])


def test_a_text_too_short_for_a_batch_is_refused() -> None:
    text = Batch(torch.arange(20).view(4, 5), torch.ones(4, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="text_blocks: value 4 is not allowed"):
        next(text_batches(text, 4, generator()))


@pytest.mark.parametrize(
    ("width", "rows", "size"), [(9, 256, 256), (512, 256, 64), (1 << 15, 8, 1), (1 << 16, 8, 1)]
)
def test_portions_hold_as_many_sequences_as_asked_or_as_their_length_allows(
    width: int, rows: int, size: int
) -> None:
    tokens = torch.zeros(1, 1, dtype=torch.long).expand(500, width)
    portions = Batch(tokens, tokens.bool()).microbatch_slices(rows)
    assert [one.start for one in portions] == list(range(0, 500, size))
    assert all(one.stop - one.start == size for one in portions)
