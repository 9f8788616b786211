from __future__ import annotations

import pytest
import torch

from knowsub.discovery.kernels import can_pack, last_hidden_varlen
from knowsub.lm.batch import Batch
from knowsub.lm.blocks import activation_checkpointed, cache_lower_states, last_hidden, upper_blocks
from tests.architectures import CONFIGS, CONTEXT, VOCAB, tiny

WIDTHS = ((3, 5), (4, 9), (1, 7))


def batches(kind: str, first: int = 2) -> tuple[torch.nn.Module, list[Batch]]:
    model, generator = tiny(kind, attention="sdpa"), torch.Generator().manual_seed(0)
    made = []
    for shape in WIDTHS:
        tokens = torch.randint(VOCAB, shape, generator=generator)
        made.append(
            cache_lower_states(model, first, Batch(tokens, torch.ones(shape, dtype=torch.bool)))
        )
    return upper_blocks(model, first), made


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize(
    "twin", [lambda model: model, activation_checkpointed], ids=["kept", "recomputed"]
)
def test_sequences_that_share_a_row_get_the_states_and_gradients_of_rows_of_their_own(
    kind: str, twin: object
) -> None:
    upper, made = batches(kind)
    weights = [own.requires_grad_() for own in upper.parameters() if own.ndim == 2]

    def slopes(states: torch.Tensor) -> list[torch.Tensor]:
        found = torch.autograd.grad(states.square().sum(), weights, allow_unused=True)
        return [torch.zeros(()) if one is None else one for one in found]

    apart = torch.cat([last_hidden(upper, batch).flatten(0, 1) for batch in made])
    packed = can_pack(upper, CONTEXT)
    assert packed is not None
    (together,) = last_hidden_varlen(twin(packed), made)
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(slopes(together), slopes(apart), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_rows_of_their_own_are_computed_as_before_bit_for_bit(kind: str) -> None:
    upper, made = batches(kind)
    packed = can_pack(upper, CONTEXT)
    assert packed is not None
    for batch in made:
        assert torch.equal(last_hidden(packed, batch), last_hidden(upper, batch))


def test_the_model_itself_keeps_its_attention_and_its_weights() -> None:
    upper, made = batches("llama")
    before = last_hidden(upper, made[0])
    packed = can_pack(upper, CONTEXT)
    assert packed is not None
    assert upper.config._attn_implementation == "sdpa"
    shared = zip(upper.parameters(), packed.parameters(), strict=True)
    assert all(left is right for left, right in shared)
    assert torch.equal(last_hidden(upper, made[0]), before)


def test_other_attention_and_short_windows_are_left_alone() -> None:
    assert can_pack(tiny("llama", attention="eager"), CONTEXT) is None
    mistral = tiny("mistral", attention="sdpa")
    for window, longest, expected in ((None, 24, True), (8, 8, True), (8, 9, False)):
        mistral.config.sliding_window = window
        assert (can_pack(mistral, longest) is not None) is expected
    qwen = tiny("qwen2", attention="sdpa")
    qwen.config.sliding_window = 4
    assert can_pack(qwen, CONTEXT) is not None
    qwen.config.layer_types = ["full_attention", "sliding_attention"]
    assert can_pack(qwen, CONTEXT) is None
