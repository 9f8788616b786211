from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from knowsub.masks.mask import pack_bits, unpack_bits


@given(st.lists(st.booleans(), max_size=70))
def test_what_is_packed_takes_a_bit_each_and_is_unpacked_equal(bits: list[bool]) -> None:
    given_bits = torch.tensor(bits, dtype=torch.bool)
    packed = pack_bits(given_bits)
    assert (packed.dtype, len(packed)) == (torch.uint8, -(-len(bits) // 8))
    assert torch.equal(unpack_bits(packed, len(bits)), given_bits)


def test_the_first_bit_is_the_highest() -> None:
    assert pack_bits(
        torch.tensor([True, False, False, False, False, False, False, True, True])
    ).tolist() == [129, 128]
