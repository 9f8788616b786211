import pytest
import torch

from knowsub.architectures import maskable_matrices
from knowsub.evaluation.robustness import fake_quantize, fake_quantized_weights
from tests.architectures import tiny


def test_rounding_by_hand() -> None:
    weight = torch.tensor([[7.0, -3.4, 0.4, 0.0], [0.7, 0.36, 0.0, -0.05]])
    assert torch.allclose(
        fake_quantize(weight, (1,), 4), torch.tensor([[7.0, -3.0, 0.0, 0.0], [0.7, 0.4, 0.0, -0.0]])
    )


def test_a_channel_of_zeros_stays_zero() -> None:
    assert fake_quantize(torch.zeros(3, 2), (0,), 8).abs().sum() == 0


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama"])
def test_every_output_channel_has_few_levels_and_no_large_error(kind: str) -> None:
    model = tiny(kind)
    every = maskable_matrices(model, range(4))
    found = fake_quantized_weights(model, every, {}, 3)
    for site in every:
        own = site.view(model.get_parameter(site.parameter))
        new = site.view(found[site.parameter])
        inputs = [site.axes.index(axis) for axis in site.input_axes]
        outputs = [axis for axis in range(own.ndim) if axis not in inputs]
        flat = new.permute(*outputs, *inputs).reshape(-1, new.numel() // _outputs(site, inputs))
        assert all(len(channel.unique()) <= 7 for channel in flat)
        largest = own.abs().amax(dim=inputs, keepdim=True)
        assert bool(((own - new).abs() <= largest / 3 / 2 + 1e-6).all())


def _outputs(site, inputs: list[int]) -> int:
    return torch.tensor([size for axis, size in enumerate(site.shape) if axis not in inputs]).prod()


def test_removed_weights_stay_removed() -> None:
    model = tiny("gpt2")
    every = maskable_matrices(model, range(4))
    name = every[0].parameter
    cut = model.get_parameter(name).clone()
    cut[::2] = 0
    assert fake_quantized_weights(model, every, {name: cut}, 8)[name][::2].abs().sum() == 0
