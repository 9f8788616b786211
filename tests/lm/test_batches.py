from __future__ import annotations

import pytest
import torch

from knowsub.lm.batch import Batch


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
