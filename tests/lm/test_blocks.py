from __future__ import annotations

import copy

import pytest
import torch

from knowsub.architectures import block_count
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
    """Return random tokens with targets here and there."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCAB, (6, 11), generator=generator)
    target_mask = torch.rand(6, 11, generator=generator) < 0.4
    target_mask[:, 0], target_mask[:, -1] = True, False
    return Batch(tokens, target_mask)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize("first", [0, 1, 2, 4])
def test_the_upper_blocks_continue_where_the_lower_ones_end(kind: str, first: int) -> None:
    model, batch = tiny(kind), random_batch()
    whole = last_hidden(model, batch)
    upper, cached = upper_blocks(model, first), cache_lower_states(model, first, batch, rows=4)
    torch.testing.assert_close(last_hidden(upper, cached), whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("first", [1, 2, 3])
def test_blocks_with_a_window_keep_it_beside_blocks_that_attend_fully(first: int) -> None:
    config = copy.deepcopy(CONFIGS["gemma3_text"])
    config.sliding_window = 4
    model, batch = tiny(config), random_batch()
    whole = model(batch.tokens).logits
    assert not torch.allclose(tiny("gemma3_text")(batch.tokens).logits, whole)
    upper, cached = upper_blocks(model, first), cache_lower_states(model, first, batch)
    logits = model.get_output_embeddings()(last_hidden(upper, cached))
    torch.testing.assert_close(logits, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_scores_from_cached_lower_states_are_those_of_the_whole_model(kind: str) -> None:
    model, batch = tiny(kind), random_batch(1)
    upper, cached = upper_blocks(model, 2), cache_lower_states(model, 2, batch)
    torch.testing.assert_close(score(upper, cached).nll, score(model, batch).nll)
    assert torch.equal(score(upper, cached).rank, score(model, batch).rank)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_a_weight_changed_in_the_upper_part_is_changed_in_the_whole(kind: str) -> None:
    model, batch = tiny(kind), random_batch()
    upper, cached = upper_blocks(model, 2), cache_lower_states(model, 2, batch)
    before = last_hidden(upper, cached)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and ".3." in name:
            parameter.zero_()
    after = last_hidden(upper, cached)
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
    upper, cached = upper_blocks(model, 2), cache_lower_states(model, 2, batch)
    before = last_hidden(upper, cached)
    drop_lower(model, 2)
    assert any(weight.device.type == "meta" for weight in model.parameters())
    assert torch.equal(last_hidden(upper, cached), before)
    assert torch.equal(last_hidden(upper_blocks(model, 2), cached), before)
