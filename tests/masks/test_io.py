from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from knowsub.masks.mask import Mask, check_model, load_mask, save_mask

shapes = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)


def drawn(shape: tuple[int, ...], seed: int = 0) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    bits = {name: torch.rand(shape, generator=generator) < 0.4 for name in ("x", "y")}
    return Mask(bits, "abc", {"target": "building.n.01", "seed": "0"})


@given(shapes, st.integers(0, 99))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_saved_is_loaded(tmp_path: Path, shape: tuple[int, ...], seed: int) -> None:
    mask = drawn(shape, seed)
    save_mask(mask, tmp_path / "mask.safetensors")
    loaded = load_mask(tmp_path / "mask.safetensors")
    assert loaded.model == mask.model
    assert loaded.meta == mask.meta
    assert all(torch.equal(loaded.bits[name], mask.bits[name]) for name in mask.bits)


def test_the_same_mask_gives_the_same_bytes_at_an_eighth_of_a_byte_a_weight(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    save_mask(drawn((80, 100)), first)
    save_mask(drawn((80, 100)), second)
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size < 2 * 80 * 100 / 8 + 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_every_truncation_and_every_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask.safetensors"
    save_mask(drawn((8, 8)), path)
    whole = path.read_bytes()
    broken = tmp_path / "broken"
    for length in range(0, len(whole), 7):
        broken.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="broken: "):
            load_mask(broken)
    unharmed = [position for position in range(0, len(whole) * 8, 5) if survives(position, path)]
    padding = len(whole) - len(whole.rstrip(b" "))  # the only bytes outside the seal, if any
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
        check_model(drawn((2, 2)), "xyz")
    check_model(drawn((2, 2)), "abc")
