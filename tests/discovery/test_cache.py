from __future__ import annotations

from pathlib import Path

import pytest
import torch

from knowsub.discovery.setup import SHARE, MemmapAllocator
from knowsub.discovery.teacher import cache_teacher_mean_rows, cache_teacher_states
from knowsub.lm.blocks import cache_lower_states, upper_blocks
from tests.architectures import tiny
from tests.discovery.setting import search, statements, text


def test_states_in_a_file_are_bit_for_bit_those_in_memory(tmp_path: Path) -> None:
    model, cache = tiny("gpt2"), MemmapAllocator(tmp_path, 0.0)
    upper, batch = upper_blocks(model, 2), statements(9, 9, 2)
    within, beyond = (
        cache_lower_states(model, 2, batch, rows=4),
        cache_lower_states(model, 2, batch, 4, cache),
    )
    assert within.lower_states is not None
    assert beyond.lower_states is not None
    assert torch.equal(within.lower_states, beyond.lower_states)
    assert torch.equal(
        cache_teacher_states(upper, within).states,
        cache_teacher_states(upper, beyond, cache).states,
    )
    assert torch.equal(
        cache_teacher_mean_rows(upper, within).answers,
        cache_teacher_mean_rows(upper, beyond, cache).answers,
    )


def test_a_search_on_mapped_states_is_the_search_on_states_in_memory(tmp_path: Path) -> None:
    within, beyond = search(), search(allocate=MemmapAllocator(tmp_path, 0.0))
    assert [within.train_step() for _ in range(3)] == [beyond.train_step() for _ in range(3)]
    assert torch.equal(within.gates.logits, beyond.gates.logits)


def test_memory_is_taken_up_to_the_limit_and_files_beyond(tmp_path: Path) -> None:
    cache, like = MemmapAllocator(tmp_path, 100e-9 / SHARE), torch.empty(1)
    cache((20,), like)
    assert cache.left == 20
    cache((6,), like)
    assert cache.left == 20
    cache((5,), like)
    assert cache.left == 0


def test_a_mapped_file_has_no_name_so_that_nothing_stays_and_nothing_reads_it(
    tmp_path: Path,
) -> None:
    states = MemmapAllocator(tmp_path / "scratch", 0.0)(
        (3, 4), torch.empty(1, dtype=torch.bfloat16)
    )
    states.fill_(2.0)
    assert states.dtype == torch.bfloat16
    assert states.sum() == 24
    assert not list((tmp_path / "scratch").iterdir())


def test_a_disk_without_room_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"\[Errno "):
        MemmapAllocator(tmp_path, 0.0)((1 << 56,), torch.empty(1))
    assert not list(tmp_path.iterdir())


def test_text_blocks_are_cached_like_statements(tmp_path: Path) -> None:
    pushed = cache_lower_states(
        tiny("gpt2"), 2, text(4, 8, 3), allocate=MemmapAllocator(tmp_path, 0.0)
    )
    assert pushed.lower_states is not None
    assert pushed.lower_states.shape[:2] == (4, 8)
