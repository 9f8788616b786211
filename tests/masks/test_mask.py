from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from knowsub.masks.mask import (
    Mask,
    check_model,
    complement,
    difference,
    floral,
    grow,
    intersection,
    jaccard,
    load_mask,
    pack_bits,
    save_mask,
    shrink,
    union,
    unpack_bits,
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
    with pytest.raises(ValueError, match="different matrices: b"):
        union(mask, Mask(dict(mask.bits) | {"b": mask.bits["a"]}, "m"))
    with pytest.raises(ValueError, match="union of no masks"):
        union()


shapes = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)


def drawn_mask(shape: tuple[int, ...], seed: int = 0) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    bits = {name: torch.rand(shape, generator=generator) < 0.4 for name in ("x", "y")}
    return Mask(bits, "abc", {"target": "building.n.01", "seed": "0"})


@given(shapes, st.integers(0, 99))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_saved_is_loaded(tmp_path: Path, shape: tuple[int, ...], seed: int) -> None:
    mask = drawn_mask(shape, seed)
    save_mask(mask, tmp_path / "mask.safetensors")
    loaded = load_mask(tmp_path / "mask.safetensors")
    assert loaded.model == mask.model
    assert loaded.meta == mask.meta
    assert all(torch.equal(loaded.bits[name], mask.bits[name]) for name in mask.bits)


def test_the_same_mask_gives_the_same_bytes_at_an_eighth_of_a_byte_a_weight(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    save_mask(drawn_mask((80, 100)), first)
    save_mask(drawn_mask((80, 100)), second)
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size < 2 * 80 * 100 / 8 + 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_every_truncation_and_every_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask.safetensors"
    save_mask(drawn_mask((8, 8)), path)
    whole = path.read_bytes()
    broken = tmp_path / "broken"
    for length in range(0, len(whole), 7):
        broken.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="broken: "):
            load_mask(broken)
    unharmed = [position for position in range(0, len(whole) * 8, 5) if survives(position, path)]
    padding = len(whole) - len(whole.rstrip(b" "))  # the only bytes outside the checksum, if any
    assert len(unharmed) <= 8 * max(padding, 8)


def survives(position: int, path: Path) -> bool:
    """Flip one bit; true if the file still loads, in which case it must load as it was."""
    flipped = bytearray(path.read_bytes())
    flipped[position // 8] ^= 1 << position % 8
    broken = path.with_name("broken")
    broken.write_bytes(flipped)
    try:
        loaded = load_mask(broken)
    except ValueError:
        return False
    own = load_mask(path)
    assert (loaded.model, loaded.meta) == (own.model, own.meta)
    assert all(torch.equal(loaded.bits[name], own.bits[name]) for name in own.bits)
    return True


def test_a_missing_file_and_another_model_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing: no such file"):
        load_mask(tmp_path / "nothing")
    with pytest.raises(ValueError, match="belongs to model abc, this is model xyz"):
        check_model(drawn_mask((2, 2)), "xyz")
    check_model(drawn_mask((2, 2)), "abc")


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
