from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.activations import NewGELUActivation

from knowsub.architectures import ARCHITECTURES
from knowsub.discovery.kernels import FUSED, fused_activations
from knowsub.lm.blocks import upper_blocks
from tests.architectures import CONFIGS, VOCAB, tiny


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCAB, n_embd=16, n_layer=4, n_head=2, n_positions=32)
    assert config.activation_function == "gelu_new"
    return GPT2LMHeadModel(config).eval().requires_grad_(False)


@pytest.mark.parametrize("kind", sorted(FUSED, key=lambda kind: kind.__name__))
def test_a_fused_activation_is_the_same_function_and_slope(kind: type[nn.Module]) -> None:
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64, requires_grad=True)
    plain, quick = kind()(x), FUSED[kind]()(x)
    torch.testing.assert_close(quick, plain, rtol=1e-9, atol=1e-9)
    (expected,) = torch.autograd.grad(plain.sum(), x)
    (slope,) = torch.autograd.grad(quick.sum(), x)
    torch.testing.assert_close(slope, expected, rtol=1e-9, atol=1e-9)


def test_a_model_as_it_is_on_the_hub_computes_the_same_with_fewer_tensors_kept() -> None:
    model = gpt2()
    states = torch.randn(2, 8, 16, requires_grad=True)

    def kept(part: nn.Module) -> tuple[torch.Tensor, int]:
        sizes: list[int] = []

        def note(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.untyped_storage().nbytes())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            found = part(inputs_embeds=states, use_cache=False).logits
        return found, sum(sizes)

    plain, most = kept(upper_blocks(model, 2))
    quick, least = kept(fused_activations(upper_blocks(model, 2)))
    torch.testing.assert_close(quick, plain, rtol=1e-5, atol=1e-6)
    assert least < most


def test_fusing_leaves_the_model_as_it_was_and_shares_its_weights() -> None:
    model = gpt2()
    before = [type(part) for part in model.modules()]
    twin = fused_activations(model)
    assert [type(part) for part in model.modules()] == before
    assert not any(isinstance(part, NewGELUActivation) for part in twin.modules())
    own, shared = dict(model.named_parameters()), dict(twin.named_parameters())
    assert own.keys() == shared.keys()
    assert all(own[name] is shared[name] for name in own)


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
def test_weights_installed_in_a_model_are_installed_in_its_fused_twin(kind: str) -> None:
    assert kind in CONFIGS
    model = tiny(kind)
    twin, tokens = fused_activations(model), torch.arange(6)[None] % VOCAB
    before = twin(tokens).logits
    name = next(name for name, own in model.named_parameters() if own.ndim == 2 and ".3." in name)
    path, _, leaf = name.rpartition(".")
    store = model.get_submodule(path)._parameters
    store[leaf] = nn.Parameter(torch.zeros_like(model.get_parameter(name)), requires_grad=False)
    assert not torch.allclose(twin(tokens).logits, before)
    torch.testing.assert_close(twin(tokens).logits, model(tokens).logits, rtol=1e-5, atol=1e-5)


def test_a_module_without_such_an_activation_is_itself() -> None:
    plain = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    assert fused_activations(plain) is plain
