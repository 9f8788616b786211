import pytest
import torch

from knowsub.architectures import maskable_matrices
from knowsub.masks import mask as masks
from knowsub.masks.ablation import ablated
from knowsub.masks.mask import Mask, random_bits, random_masks
from tests.architectures import tiny


def graded_mask(model: torch.nn.Module) -> Mask:
    """A mask of another size in every matrix."""
    bits = {
        matrix.name: (torch.arange(matrix.size) < 3 + index).view(matrix.shape)
        for index, matrix in enumerate(maskable_matrices(model))
    }
    return Mask(bits, "tiny")


def test_a_random_mask_removes_exactly_as_many_weights_in_each_matrix() -> None:
    model = tiny("gpt2")
    matrices, mask = maskable_matrices(model), graded_mask(model)
    for drawn in random_masks(mask, 3, torch.Generator().manual_seed(0)):
        assert drawn.counts() == mask.counts()
        with ablated(model, matrices, drawn):
            for matrix in matrices:
                path, _, leaf = matrix.parameter.rpartition(".")
                weight = matrix.view(getattr(model.get_submodule(path), leaf))
                assert int((weight == 0).sum()) == mask.counts()[matrix.name]


def test_it_removes_what_it_says_and_not_its_inverse() -> None:
    mask = graded_mask(tiny("llama"))
    drawn = next(random_masks(mask, 1, torch.Generator().manual_seed(0)))
    assert drawn.sparsity == mask.sparsity > 0.9


def test_every_weight_is_as_likely() -> None:
    mask = Mask({"a": torch.tensor([True, True, False, False, False, False])}, "m")
    total = torch.zeros(6)
    for drawn in random_masks(mask, 3000, torch.Generator().manual_seed(0)):
        total += drawn.bits["a"]
    assert torch.allclose(total / 3000, torch.full((6,), 1 / 3), atol=0.04)


def test_one_seed_gives_one_sequence_of_different_masks() -> None:
    mask = graded_mask(tiny("gpt2"))
    first, second = (
        list(random_masks(mask, 2, torch.Generator().manual_seed(4))) for _ in range(2)
    )
    name = next(iter(mask.bits))
    assert first[0].bits[name].equal(second[0].bits[name])
    assert not first[0].bits[name].equal(first[1].bits[name])


def test_large_vectors_get_exactly_as_many_bits_all_as_likely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(0)
    for count in (0, 1, 30_000, masks.PERMUTED // 2, masks.PERMUTED, masks.PERMUTED + 1):
        assert int(random_bits(masks.PERMUTED + 1, count, generator).sum()) == count
    monkeypatch.setattr(masks, "PERMUTED", 0)
    for count in (2, 5):  # of six: drawn themselves, and by what is left out
        total = sum((random_bits(6, count, generator) for _ in range(3000)), torch.zeros(6))
        assert torch.allclose(total / 3000, torch.full((6,), count / 6), atol=0.04)
