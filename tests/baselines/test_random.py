import torch

from knowsub.architectures import maskable_matrices
from knowsub.baselines.methods import select
from knowsub.masks.ablation import ablated
from knowsub.masks.mask import Mask, random_masks, random_scores
from tests.architectures import tiny


def mask_of_some(model: torch.nn.Module) -> Mask:
    bits = {
        site.name: (torch.arange(site.size) < 3 + index).view(site.shape)
        for index, site in enumerate(maskable_matrices(model))
    }
    return Mask(bits, "tiny")


def test_a_random_mask_removes_exactly_as_many_weights_in_each_site() -> None:
    model = tiny("gpt2")
    places, mask = maskable_matrices(model), mask_of_some(model)
    for drawn in random_masks(mask, 3, torch.Generator().manual_seed(0)):
        assert drawn.counts() == mask.counts()
        with ablated(model, places, drawn):
            for site in places:
                path, _, leaf = site.parameter.rpartition(".")
                weight = site.view(getattr(model.get_submodule(path), leaf))
                assert int((weight == 0).sum()) == mask.counts()[site.name]


def test_it_removes_what_it_says_and_not_its_inverse() -> None:
    model = tiny("llama")
    mask = mask_of_some(model)
    drawn = next(random_masks(mask, 1, torch.Generator().manual_seed(0)))
    assert drawn.sparsity == mask.sparsity > 0.9


def test_every_weight_is_as_likely() -> None:
    mask = Mask({"a": torch.tensor([True, True, False, False, False, False])}, "m")
    total = torch.zeros(6)
    for drawn in random_masks(mask, 3000, torch.Generator().manual_seed(0)):
        total += drawn.bits["a"]
    assert torch.allclose(total / 3000, torch.full((6,), 1 / 3), atol=0.04)


def test_one_seed_gives_one_sequence_of_different_masks() -> None:
    mask = mask_of_some(tiny("gpt2"))
    first, second = (
        list(random_masks(mask, 2, torch.Generator().manual_seed(4))) for _ in range(2)
    )
    name = next(iter(mask.bits))
    assert first[0].bits[name].equal(second[0].bits[name])
    assert not first[0].bits[name].equal(first[1].bits[name])


def test_masks_of_random_scores_lie_in_one_another() -> None:
    mask = mask_of_some(tiny("gpt2"))
    scores = random_scores(mask, torch.Generator().manual_seed(0))
    small = select(scores, mask.counts(), "m", {})
    large = select(scores, {name: 2 * count for name, count in mask.counts().items()}, "m", {})
    assert all(bool((small.bits[name] <= large.bits[name]).all()) for name in mask.bits)
