from __future__ import annotations

import copy

import pytest
import torch

from knowsub.architectures import MaskableMatrix, architecture, maskable_matrices
from knowsub.masks.ablation import ablate_, ablated, applied, only_subnetwork, remaining_weights
from knowsub.masks.mask import Mask
from tests.architectures import CONFIGS, VOCAB, tiny

TOKENS = torch.arange(1, 13).view(2, 6) % VOCAB


def random_mask(matrices: tuple[MaskableMatrix, ...], density: float = 0.3, seed: int = 0) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    bits = {each.name: torch.rand(each.shape, generator=generator) < density for each in matrices}
    return Mask(bits, model="tiny")


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_the_remaining_model_is_the_model_with_its_weights_really_zeroed(kind: str) -> None:
    model = tiny(kind)
    matrices = maskable_matrices(model)
    mask = random_mask(matrices)
    zeroed = copy.deepcopy(model)
    for matrix in matrices:
        matrix.view(zeroed.get_parameter(matrix.parameter))[mask.bits[matrix.name]] = 0.0
    with ablated(model, matrices, mask):
        inside = model(TOKENS).logits
    assert torch.equal(inside, zeroed(TOKENS).logits)
    assert not torch.allclose(inside, model(TOKENS).logits)
    ablate_(model, matrices, mask)
    assert torch.equal(inside, model(TOKENS).logits)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_after_the_block_the_model_is_untouched(kind: str) -> None:
    model = tiny(kind)
    names = list(model.state_dict())
    before = model(TOKENS).logits
    with (
        pytest.raises(KeyError),
        ablated(model, maskable_matrices(model), random_mask(maskable_matrices(model))),
    ):
        raise KeyError
    assert torch.equal(before, model(TOKENS).logits)
    assert list(model.state_dict()) == names


def test_subnetwork_and_remaining_model_add_up_to_the_original() -> None:
    model = tiny("gpt2")
    matrices = maskable_matrices(model)
    mask = random_mask(matrices)
    kept = remaining_weights(model, matrices, mask, keep=True)
    for name, remaining in remaining_weights(model, matrices, mask).items():
        assert torch.equal(remaining + kept[name], model.get_parameter(name))


def test_removing_nothing_changes_nothing_and_keeping_all_changes_nothing() -> None:
    model = tiny("llama")
    matrices = maskable_matrices(model)
    before = model(TOKENS).logits
    with ablated(model, matrices, random_mask(matrices, density=0.0)):
        assert torch.equal(before, model(TOKENS).logits)
    with only_subnetwork(model, matrices, random_mask(matrices, density=1.1)):
        assert torch.equal(before, model(TOKENS).logits)


def test_a_mask_of_another_model_is_refused_by_its_shapes() -> None:
    model = tiny("gpt2")
    mask = random_mask(maskable_matrices(tiny("llama")))
    with pytest.raises(ValueError, match=r"matrix blocks\.2\.q: the mask has shape"):
        remaining_weights(model, maskable_matrices(model), mask)


def test_a_matrix_that_the_model_lacks_is_named() -> None:
    model = tiny("gpt2")
    mask = Mask({"blocks.9.q": torch.zeros(1, dtype=torch.bool)}, "tiny")
    with pytest.raises(ValueError, match=r"blocks\.9\.q"):
        remaining_weights(model, maskable_matrices(model), mask)


def test_a_replacement_of_another_shape_is_refused() -> None:
    model = tiny("gpt2")
    name = architecture(model).blocks + ".0.mlp.c_fc.weight"
    with pytest.raises(ValueError, match="shape"), applied(model, {name: torch.zeros(1)}):
        pass
