import pytest
import torch

from knowsub.architectures import maskable_matrices
from knowsub.downstream.model import ZeroConstraint, removed_bits
from knowsub.masks.mask import Mask
from tests.architectures import tiny
from tests.downstream.setting import removed_values, some_mask


def test_the_bits_of_the_parameters_are_those_of_the_sites() -> None:
    model = tiny("gpt2")
    mask = some_mask(model)
    bits = removed_bits(model, maskable_matrices(model), mask)
    assert sum(int(own.sum()) for own in bits.values()) == mask.size
    for site in maskable_matrices(model):
        assert torch.equal(site.view(bits[site.parameter]), mask.bits[site.name])


def test_a_mask_of_another_model_is_refused() -> None:
    model = tiny("gpt2")
    with pytest.raises(ValueError, match=r"matrix 'blocks\.9\.q', which the model lacks"):
        removed_bits(
            model, maskable_matrices(model), Mask({"blocks.9.q": torch.ones(2).bool()}, "other")
        )


def test_held_weights_and_their_gradients_are_set_to_zero_and_no_others() -> None:
    model = tiny("gpt2").requires_grad_(True)
    mask = some_mask(model)
    hold = ZeroConstraint(model, removed_bits(model, maskable_matrices(model), mask))
    assert not removed_values(model, mask).any()
    model(torch.tensor([[1, 2, 3]])).logits.square().sum().backward()
    before = {name: each.grad.clone() for name, each in model.named_parameters()}
    hold.gradients()
    for name, parameter in model.named_parameters():
        bits = hold.bits(parameter)
        if bits is None:
            assert torch.equal(parameter.grad, before[name])
        else:
            assert not parameter.grad[bits].any()
            assert torch.equal(parameter.grad[~bits], before[name][~bits])


def test_a_held_weight_that_is_not_zero_stops_the_run() -> None:
    model = tiny("gpt2")
    mask = some_mask(model)
    hold = ZeroConstraint(model, removed_bits(model, maskable_matrices(model), mask))
    hold.check()
    with torch.no_grad():
        model.get_parameter("transformer.h.3.mlp.c_fc.weight").add_(1e-30)
    with pytest.raises(RuntimeError, match="a removed weight is not zero"):
        hold.check()
    hold.weights()
    hold.check()
