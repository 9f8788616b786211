from __future__ import annotations

import pytest
import torch

from knowsub.lm.encode import Batch
from knowsub.lm.reading import only_read
from knowsub.lm.trunk import last_hidden, push, recomputed, upper_blocks
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
    upper, pushed = upper_blocks(model, 2), push(model, 2, batch)
    weights = [own for own in model.parameters() if own.ndim == 2]
    for own in weights:
        own.requires_grad_()

    def slopes(states: torch.Tensor) -> list[torch.Tensor]:
        loss = states[batch.reads].square().sum()
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        return [torch.zeros(()) if one is None else one for one in found]

    whole = last_hidden(upper, pushed)
    with only_read(upper, batch.reads):
        few = last_hidden(upper, pushed)
    torch.testing.assert_close(few[batch.reads], whole[batch.reads])
    assert not torch.allclose(few[~batch.reads], whole[~batch.reads])
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
    with only_read(model, batch.reads):
        for part in inner:
            part.register_forward_hook(note)
        last_hidden(model, batch)
    assert seen == [int(batch.reads.sum())] * len(inner) != []


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_it_goes_with_activations_that_are_computed_again(kind: str) -> None:
    model, batch = tiny(kind), random_batch()
    upper, pushed = upper_blocks(model, 1), push(model, 1, batch)
    (own, *_) = [own for name, own in model.named_parameters() if own.ndim == 2 and ".2." in name]
    own.requires_grad_()
    found = []
    for part in (upper, recomputed(upper)):
        with only_read(part, batch.reads):
            states = last_hidden(part, pushed)[batch.reads]
        found.append(torch.autograd.grad(states.square().sum(), own)[0])
    assert torch.equal(*found)


def test_the_hooks_are_gone_after_an_error() -> None:
    model, batch = tiny("gpt2"), random_batch()
    before = last_hidden(model, batch)
    with pytest.raises(KeyError), only_read(model, batch.reads):
        raise KeyError
    assert torch.equal(last_hidden(model, batch), before)
