from __future__ import annotations

import pytest
import torch

from knowsub.discovery.kernels import last_mlp_at_targets
from knowsub.lm.batch import Batch
from knowsub.lm.blocks import activation_checkpointed, cache_lower_states, last_hidden, upper_blocks
from tests.architectures import CONFIGS, VOCAB, tiny


def random_batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCAB, (5, 9), generator=generator)
    reads = torch.rand(5, 9, generator=generator) < 0.3
    reads[:, 4] = True
    return Batch(tokens, reads)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_read_positions_get_the_same_states_and_gradients_as_with_the_whole_mlp(kind: str) -> None:
    model, batch = tiny(kind), random_batch()
    upper, pushed = upper_blocks(model, 2), cache_lower_states(model, 2, batch)
    weights = [own for own in model.parameters() if own.ndim == 2]
    for own in weights:
        own.requires_grad_()

    def slopes(states: torch.Tensor) -> list[torch.Tensor]:
        loss = states[batch.target_mask].square().sum()
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        return [torch.zeros(()) if one is None else one for one in found]

    whole = last_hidden(upper, pushed)
    with last_mlp_at_targets(upper, batch.target_mask):
        few = last_hidden(upper, pushed)
    torch.testing.assert_close(few[batch.target_mask], whole[batch.target_mask])
    assert not torch.allclose(few[~batch.target_mask], whole[~batch.target_mask])
    torch.testing.assert_close(slopes(few), slopes(whole))
    assert torch.equal(last_hidden(upper, pushed), whole)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_the_mlp_multiplies_only_rows_that_are_read(kind: str) -> None:
    model, batch = tiny(kind), random_batch()
    last = next(name for name, _ in model.named_modules() if name.endswith(".3"))
    seen: list[int] = []

    def note(_: torch.nn.Module, args: tuple[torch.Tensor, ...], told: torch.Tensor) -> None:
        seen.append(told.shape[:-1].numel())

    inner = [
        part
        for name, part in model.get_submodule(last).named_modules()
        if name.endswith(("c_fc", "dense_h_to_4h", "gate_proj", "up_proj", "fc1"))
    ]
    with last_mlp_at_targets(model, batch.target_mask):
        for part in inner:
            part.register_forward_hook(note)
        last_hidden(model, batch)
    assert seen == [int(batch.target_mask.sum())] * len(inner) != []


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_it_goes_with_activations_that_are_computed_again(kind: str) -> None:
    model, batch = tiny(kind), random_batch()
    upper, pushed = upper_blocks(model, 1), cache_lower_states(model, 1, batch)
    (own, *_) = [own for name, own in model.named_parameters() if own.ndim == 2 and ".2." in name]
    own.requires_grad_()
    found = []
    for part in (upper, activation_checkpointed(upper)):
        with last_mlp_at_targets(part, batch.target_mask):
            states = last_hidden(part, pushed)[batch.target_mask]
        found.append(torch.autograd.grad(states.square().sum(), own)[0])
    assert torch.equal(*found)


def test_the_hooks_are_gone_after_an_error() -> None:
    model, batch = tiny("gpt2"), random_batch()
    before = last_hidden(model, batch)
    with pytest.raises(KeyError), last_mlp_at_targets(model, batch.target_mask):
        raise KeyError
    assert torch.equal(last_hidden(model, batch), before)
