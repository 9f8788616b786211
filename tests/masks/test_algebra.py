from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from knowsub.masks.mask import (
    Mask,
    complement,
    difference,
    floral,
    grow,
    intersection,
    jaccard,
    shrink,
    union,
)

bits = st.lists(st.booleans(), min_size=6, max_size=6).map(torch.tensor)
masks = st.builds(lambda a, b: Mask({"a": a, "b": b}, "m"), bits, bits)


def same(first: Mask, second: Mask) -> bool:
    return all(torch.equal(first.bits[name], second.bits[name]) for name in first.bits)


@given(masks, masks)
def test_de_morgan(first: Mask, second: Mask) -> None:
    assert same(
        complement(union(first, second)), intersection(complement(first), complement(second))
    )


@given(masks, masks, masks)
def test_the_floral_of_three_is_their_majority(a: Mask, b: Mask, c: Mask) -> None:
    majority = union(intersection(a, b), intersection(a, c), intersection(b, c))
    assert same(floral(a, b, c), majority)


@given(masks, masks)
def test_difference_and_intersection_split_a_mask(first: Mask, second: Mask) -> None:
    apart = difference(first, second)
    assert same(union(apart, intersection(first, second)), first)
    assert intersection(apart, second).size == 0


@given(masks, masks)
def test_jaccard_is_symmetric_between_zero_and_one_and_one_with_itself(a: Mask, b: Mask) -> None:
    assert jaccard(a, b) == jaccard(b, a)
    assert 0 <= jaccard(a, b) <= 1
    assert jaccard(a, a) == 1


def test_jaccard_by_hand() -> None:
    first = Mask({"a": torch.tensor([True, True, False, False])}, "m")
    second = Mask({"a": torch.tensor([True, False, True, False])}, "m")
    assert jaccard(first, second) == 1 / 3


@given(masks, st.floats(0, 1))
def test_growing_contains_and_shrinking_is_contained(mask: Mask, share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    grown, shrunk = grow(mask, share, generator), shrink(mask, share, generator)
    assert same(intersection(grown, mask), mask)
    assert same(intersection(shrunk, mask), shrunk)
    for name, count in mask.counts().items():
        wanted = round(share * count)
        assert grown.counts()[name] == count + min(wanted, 6 - count)
        assert shrunk.counts()[name] == count - wanted


def test_masks_of_two_models_are_not_combined() -> None:
    mask = Mask({"a": torch.tensor([True])}, "m")
    with pytest.raises(ValueError, match="masks of two models"):
        union(mask, Mask(mask.bits, "n"))
    with pytest.raises(ValueError, match="different sites: b"):
        union(mask, Mask(dict(mask.bits) | {"b": mask.bits["a"]}, "m"))
    with pytest.raises(ValueError, match="union of no masks"):
        union()
