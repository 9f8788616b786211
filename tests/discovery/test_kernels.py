from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.activations import NewGELUActivation

from knowsub.discovery import kernels
from knowsub.discovery.kernels import (
    FUSED,
    can_pack,
    cast_head,
    fused_activations,
    last_hidden_varlen,
    last_mlp_at_targets,
    matmul_autocast,
    matmul_backend,
    require_exact,
    split_by_length,
    target_states,
)
from knowsub.discovery.options import Matmul, Precision
from knowsub.lm.batch import Batch
from knowsub.lm.blocks import activation_checkpointed, cache_lower_states, last_hidden, upper_blocks
from knowsub.lm.head import LMHead
from tests.architectures import CONFIGS, CONTEXT, EAGER, PACKABLE, VOCAB, tiny
from tests.discovery.setting import statements


def test_the_library_is_another_within_the_block_alone() -> None:
    settings = torch.backends.mkldnn.matmul
    before = settings.fp32_precision
    with matmul_backend(Matmul.ONEDNN):
        assert settings.fp32_precision == "bf16"
    assert settings.fp32_precision == before
    with matmul_backend(Matmul.DEFAULT):
        assert settings.fp32_precision == before


def test_the_default_library_is_exact() -> None:
    require_exact(Matmul.DEFAULT)


def test_a_library_that_is_not_exact_here_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "MAX_MATMUL_ERROR", 0.0)
    with pytest.raises(ValueError, match=r"train\.matmul: value 'onednn' is not allowed on this"):
        require_exact(Matmul.ONEDNN)


def test_float32_leaves_head_and_products_as_they_are() -> None:
    head = LMHead(torch.nn.Linear(4, 3))
    assert cast_head(Precision.FLOAT32, head) is head
    with matmul_autocast(Precision.FLOAT32, torch.device("cpu")):
        assert head(torch.ones(2, 4)).dtype == torch.float32


def test_a_bf16_head_is_a_copy_and_sums_stay_float32() -> None:
    head = LMHead(torch.nn.Linear(4, 3))
    low = cast_head(Precision.BFLOAT16, head)
    with matmul_autocast(Precision.BFLOAT16, torch.device("cpu")):
        assert low(torch.ones(2, 4)).dtype == torch.bfloat16
        assert torch.nn.functional.layer_norm(torch.ones(2, 4), (4,)).dtype == torch.float32
    assert head.weight.dtype == torch.float32


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
        if name.endswith(
            ("c_fc", "dense_h_to_4h", "gate_proj", "up_proj", "gate_up_proj", "fc1", "fc_in")
        )
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


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_weights_installed_in_a_model_are_installed_in_its_fused_twin(kind: str) -> None:
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


@pytest.mark.parametrize("kind", PACKABLE)
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


@pytest.mark.parametrize("kind", PACKABLE)
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
    assert all(can_pack(tiny(kind, attention="sdpa"), CONTEXT) is None for kind in EAGER)
    mistral = tiny("mistral", attention="sdpa")
    for window, longest, expected in ((None, 24, True), (8, 8, True), (8, 9, False)):
        mistral.config.sliding_window = window
        assert (can_pack(mistral, longest) is not None) is expected
    qwen = tiny("qwen2", attention="sdpa")
    qwen.config.sliding_window = 4
    assert can_pack(qwen, CONTEXT) is not None
    qwen.config.layer_types = ["full_attention", "sliding_attention"]
    assert can_pack(qwen, CONTEXT) is None


@pytest.mark.parametrize("kind", PACKABLE)
def test_sequences_of_each_length_apart_give_the_same_states_and_gradients(kind: str) -> None:
    model = tiny(kind, attention="sdpa")
    groups = {
        name: cache_lower_states(model, 2, statements(6, width, seed))
        for seed, (name, width) in enumerate({"target": 8, "control": 11}.items())
    }
    upper = upper_blocks(model, 2)
    packed = can_pack(upper, CONTEXT)
    assert packed is not None
    weights = [own.requires_grad_() for own in model.parameters() if own.ndim == 2]
    results = []
    for states in (target_states(upper, groups), target_states(packed, groups, by_length=True)):
        total = sum(
            (value * torch.arange(1, len(value) + 1)[:, None]).sum() for value in states.values()
        )
        grads = torch.autograd.grad(total, weights, allow_unused=True)
        results.append((states, [grad for grad in grads if grad is not None]))
    (padded, padded_grads), (apart, apart_grads) = results
    for name in groups:
        torch.testing.assert_close(apart[name], padded[name], rtol=1e-4, atol=1e-5)
    for expected, actual in zip(padded_grads, apart_grads, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


def test_parts_of_equal_length_hold_no_padding_and_every_target_once() -> None:
    batch = statements(7, 9, 3, n_targets=2)
    batch = batch.with_lower_states(batch.tokens[..., None].float())
    parts, order = split_by_length([batch])
    assert sum(part.tokens.numel() for part in parts) == int((batch.lengths - 1).sum())
    labels = torch.cat([part.tokens[part.target_mask] for part in parts])[order]
    assert torch.equal(labels, batch.tokens[batch.target_mask])
