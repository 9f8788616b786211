"""A model that `peft` has wrapped: same matrices, same fingerprint, a mask applied beneath."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, TrainableTokensConfig, get_peft_model
from torch import nn

import knowsub
from knowsub.lm.identity import fingerprint, identity
from knowsub.masks.ablation import all_matrices
from knowsub.masks.mask import Mask
from tests.architectures import tiny
from tests.evaluation.setting import built_model, fact_mask, tokenizer

KINDS = {"gpt2": ["c_attn", "c_proj", "c_fc"], "llama": ["q_proj", "down_proj", "embed_tokens"]}
pytestmark = [
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),  # peft asks it
]


def wrapped(model: Any, **settings: Any) -> PeftModel:
    """A model with random adapters on top, which change what it computes."""
    config = LoraConfig(task_type="CAUSAL_LM", r=2, **settings)
    model = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.5)
    return model.eval()


def random_mask(model: Any) -> Mask:
    generator = torch.Generator().manual_seed(0)
    bits = {
        matrix.name: torch.rand(matrix.shape, generator=generator) < 0.3
        for matrix in all_matrices(model)
    }
    return Mask(bits, identity(model, None))


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrapped_model_has_the_matrices_and_the_fingerprint_of_its_base(kind: str) -> None:
    plain = tiny(kind)
    model = wrapped(tiny(kind), target_modules=KINDS[kind])
    base = model.get_base_model()
    found, expected = all_matrices(base), all_matrices(plain)
    assert [(each.name, each.shape) for each in found] == [
        (each.name, each.shape) for each in expected
    ]
    for one, other in zip(found, expected, strict=True):
        stored = base.get_parameter(one.parameter), plain.get_parameter(other.parameter)
        assert torch.equal(one.view(stored[0]), other.view(stored[1]))
    assert any("base_layer" in matrix.parameter for matrix in found)
    assert fingerprint(model) == fingerprint(base) == fingerprint(plain)
    assert identity(model, None) == identity(plain, None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_is_applied_beneath_the_adapter(kind: str) -> None:
    """The same as the merged difference added to the base from which the weights were removed."""
    mask, tokens = random_mask(tiny(kind)), torch.arange(12)[None]
    model = wrapped(tiny(kind), target_modules=KINDS[kind])
    before = model(tokens).logits
    expected = tiny(kind)
    knowsub.remove(expected, mask)
    merged = wrapped(expected, target_modules=KINDS[kind])
    merged.load_state_dict({k: v for k, v in model.state_dict().items() if "lora_" in k}, False)
    wanted = merged.merge_and_unload()
    with torch.no_grad(), knowsub.ablated(model, mask):
        torch.testing.assert_close(model(tokens).logits, wanted(tokens).logits)
        written = model.generate(tokens, max_new_tokens=5, do_sample=False)
        assert torch.equal(written, wanted.generate(tokens, max_new_tokens=5, do_sample=False))
    assert torch.equal(model(tokens).logits, before)
    knowsub.remove(model, mask)
    torch.testing.assert_close(model(tokens).logits, wanted(tokens).logits)


def test_an_adapter_from_a_folder_goes_on_a_model_that_the_library_opened(tmp_path: Path) -> None:
    built_model().save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    wrapped(built_model(), target_modules=["c_fc"]).save_pretrained(tmp_path / "adapter")
    bits = fact_mask(built_model(), ["a0"]).bits
    base, words = knowsub.load(tmp_path / "base")
    mask = Mask(bits, identity(base, words))
    model = PeftModel.from_pretrained(base, tmp_path / "adapter")
    with knowsub.ablated(model, mask):
        removed = model.get_base_model().transformer.h[1].mlp.c_proj.weight
        assert int((removed == 0).sum()) == removed.numel() - int((removed != 0).sum())
        assert not bool(removed[bits["blocks.1.mlp_out"]].any())
    with pytest.raises(ValueError, match=r"holds an adapter .* knowsub.ablated removes a mask"):
        knowsub.load(tmp_path / "adapter")


def test_a_merged_adapter_is_another_model_and_refused() -> None:
    mask = random_mask(tiny("gpt2"))
    model = wrapped(tiny("gpt2"), target_modules=["c_fc"])
    model.merge_adapter()
    with pytest.raises(ValueError, match="another weights"):
        knowsub.ablated(model, mask)
    model.unmerge_adapter()


def test_modules_that_were_trained_whole_count_as_adapters_too() -> None:
    plain = tiny("gpt2")
    saved = wrapped(tiny("gpt2"), target_modules=["c_fc"], modules_to_save=["ln_f"])
    tokens = get_peft_model(tiny("gpt2"), TrainableTokensConfig(token_indices=[1, 2]))
    assert fingerprint(saved) == fingerprint(tokens) == fingerprint(plain)
    with pytest.raises(ValueError, match=r"h.0.mlp.c_fc was trained as a whole .modules_to_save"):
        knowsub.ablated(
            wrapped(tiny("gpt2"), target_modules=["c_proj"], modules_to_save=["c_fc"]),
            random_mask(plain),
        )
    with pytest.raises(ValueError, match=r"give what its get_base_model\(\) returns"):
        all_matrices(saved)


def test_weights_are_hashed_as_rarely_as_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    import knowsub.lm.identity as module

    model, words = built_model(), tokenizer()
    made_for, half = identity(model, words), identity(model, words, torch.bfloat16)
    hashed: list[torch.dtype | None] = []
    real = module.fingerprint

    def counting(model: nn.Module, dtype: torch.dtype | None = None) -> str:
        hashed.append(dtype)
        return real(model, dtype)

    monkeypatch.setattr(module, "fingerprint", counting)
    for wanted, known, times in [(made_for, made_for, 0), (made_for, "", 1), (half, made_for, 2)]:
        hashed.clear()
        module.require_made_for(wanted, model, words, known)
        assert len(hashed) == times
    other = made_for[:-1] + ("0" if made_for[-1] != "0" else "1")
    for wanted, times, parts in [(other, 1, "tokenizer"), ("0" * 64 + made_for[64:], 3, "weights")]:
        hashed.clear()
        with pytest.raises(ValueError, match=f"another {parts}$"):
            module.require_made_for(wanted, model, words)
        assert len(hashed) == times
