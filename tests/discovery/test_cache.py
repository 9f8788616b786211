from __future__ import annotations

from pathlib import Path

import pytest
import torch

from knowsub.discovery.cache import SHARE, Cache
from knowsub.discovery.reference import expect, recall
from knowsub.lm.trunk import push, upper_blocks
from tests.architectures import tiny
from tests.discovery.setting import search, statements, text


def test_states_in_a_file_are_bit_for_bit_those_in_memory(tmp_path: Path) -> None:
    model, cache = tiny("gpt2"), Cache(tmp_path, 0.0)
    upper, batch = upper_blocks(model, 2), statements(9, 9, 2)
    within, beyond = push(model, 2, batch, rows=4), push(model, 2, batch, 4, cache)
    assert within.hidden is not None
    assert beyond.hidden is not None
    assert torch.equal(within.hidden, beyond.hidden)
    assert torch.equal(recall(upper, within).states, recall(upper, beyond, cache).states)
    assert torch.equal(expect(upper, within).answers, expect(upper, beyond, cache).answers)


def test_a_search_on_mapped_states_is_the_search_on_states_in_memory(tmp_path: Path) -> None:
    within, beyond = search(), search(allocate=Cache(tmp_path, 0.0))
    assert [within.advance() for _ in range(3)] == [beyond.advance() for _ in range(3)]
    assert torch.equal(within.gates.logits, beyond.gates.logits)


def test_memory_is_taken_up_to_the_limit_and_files_beyond(tmp_path: Path) -> None:
    cache, like = Cache(tmp_path, 100e-9 / SHARE), torch.empty(1)
    cache((20,), like)
    assert cache.left == 20
    cache((6,), like)
    assert cache.left == 20
    cache((5,), like)
    assert cache.left == 0


def test_a_mapped_file_has_no_name_so_that_nothing_stays_and_nothing_reads_it(
    tmp_path: Path,
) -> None:
    states = Cache(tmp_path / "scratch", 0.0)((3, 4), torch.empty(1, dtype=torch.bfloat16))
    states.fill_(2.0)
    assert states.dtype == torch.bfloat16
    assert states.sum() == 24
    assert not list((tmp_path / "scratch").iterdir())


def test_a_disk_without_room_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"\[Errno "):
        Cache(tmp_path, 0.0)((1 << 56,), torch.empty(1))
    assert not list(tmp_path.iterdir())


def test_text_blocks_are_cached_like_statements(tmp_path: Path) -> None:
    pushed = push(tiny("gpt2"), 2, text(4, 8, 3), allocate=Cache(tmp_path, 0.0))
    assert pushed.hidden is not None
    assert pushed.hidden.shape[:2] == (4, 8)
