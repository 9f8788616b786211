from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from knowsub.masks.mask import PackedBits, pack_bits
from knowsub.masks.trim import pack_largest

levels = st.sampled_from([-torch.inf, -2.0, -0.0, 0.0, 1e-42, 1e-9, 0.1, 0.1000001, 3.0, 1e4])


@settings(deadline=None, max_examples=50)
@given(st.lists(levels, min_size=1, max_size=40), st.integers(0, 45))
def test_the_largest_positive_logits_are_chosen_and_of_ties_the_first(
    values: list[float], limit: int
) -> None:
    logits = torch.tensor(values)
    by_size = sorted(range(len(values)), key=lambda index: (-values[index], index))
    expected = {index for index in by_size[:limit] if values[index] > 0}
    for size in (8, 64):
        parts = [slice(at, min(at + size, len(values))) for at in range(0, len(values), size)]
        chosen = pack_largest(logits, limit, parts)
        assert set(chosen[:].nonzero()[:, 0].tolist()) == expected
        assert chosen.density == len(expected) / len(values)


def test_a_slice_of_packed_bits_is_that_slice_of_the_bits() -> None:
    bits = torch.rand(61, generator=torch.Generator().manual_seed(0)) < 0.3
    packed = PackedBits(pack_bits(bits), len(bits), bits.device)
    for start in range(0, 61, 5):
        for end in range(start, 62, 7):
            assert torch.equal(packed[start:end], bits[start:end])
    assert torch.equal(packed[:], bits)
    assert len(packed) == 61
