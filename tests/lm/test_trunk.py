from __future__ import annotations

import pytest
import torch

from knowsub.architectures import ARCHITECTURES, block_count
from knowsub.lm.batch import Batch
from knowsub.lm.blocks import (
    cache_lower_states,
    drop_lower,
    last_hidden,
    lower_blocks,
    upper_blocks,
)
from knowsub.lm.score import score
from tests.architectures import CONFIGS, VOCAB, tiny


def random_batch(seed: int = 0) -> Batch:
    """Return random tokens of unequal length, read here and there."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCAB, (6, 11), generator=generator)
    reads = torch.rand(6, 11, generator=generator) < 0.4
    reads[:, 0], reads[:, -1] = True, False
    return Batch(tokens, reads)


def test_every_family_of_the_table_is_tried() -> None:
    assert set(CONFIGS) == set(ARCHITECTURES)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize("first", [0, 1, 2, 4])
def test_the_upper_blocks_continue_where_the_lower_ones_end(kind: str, first: int) -> None:
    model, batch = tiny(kind), random_batch()
    whole = last_hidden(model, batch)
    pushed = last_hidden(
        upper_blocks(model, first), cache_lower_states(model, first, batch, rows=4)
    )
    torch.testing.assert_close(pushed, whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_scores_from_the_cached_trunk_are_those_of_the_whole_model(kind: str) -> None:
    model, batch = tiny(kind), random_batch(1)
    upper, pushed = upper_blocks(model, 2), cache_lower_states(model, 2, batch)
    torch.testing.assert_close(score(upper, pushed).nll, score(model, batch).nll)
    assert torch.equal(score(upper, pushed).rank, score(model, batch).rank)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_a_weight_changed_in_the_upper_part_is_changed_in_the_whole(kind: str) -> None:
    model, batch = tiny(kind), random_batch()
    upper, pushed = upper_blocks(model, 2), cache_lower_states(model, 2, batch)
    before = last_hidden(upper, pushed)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and ".3." in name:
            parameter.zero_()
    after = last_hidden(upper, pushed)
    assert not torch.allclose(after, before)
    torch.testing.assert_close(after, last_hidden(model, batch), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_cutting_a_model_leaves_it_as_it_was(kind: str) -> None:
    model, batch = tiny(kind), random_batch()
    before = last_hidden(model, batch)
    upper_blocks(model, 2)
    lower_blocks(model, 2)
    assert block_count(model) == model.config.num_hidden_layers == 4
    assert torch.equal(last_hidden(model, batch), before)


def test_a_block_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="blocks 5 to 4"):
        upper_blocks(tiny("gpt2"), 5)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_without_its_lower_blocks_a_model_still_runs_from_its_upper_part(kind: str) -> None:
    model, batch = tiny(kind), random_batch()
    upper, pushed = upper_blocks(model, 2), cache_lower_states(model, 2, batch)
    before = last_hidden(upper, pushed)
    held = sum(own.numel() for own in model.parameters() if own.device.type == "cpu")
    drop_lower(model, 2)
    assert sum(own.numel() for own in model.parameters() if own.device.type == "cpu") < held
    assert torch.equal(last_hidden(upper, pushed), before)
    assert torch.equal(last_hidden(upper_blocks(model, 2), pushed), before)
