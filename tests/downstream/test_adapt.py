import pytest
import torch

from knowsub.architectures import maskable_matrices
from knowsub.downstream.model import (
    TrainableSpec,
    ZeroConstraint,
    adapt,
    lora_layers,
    merge_lora,
    removed_bits,
)
from knowsub.downstream.options import Adaptation
from knowsub.masks.ablation import ablate_
from tests.architectures import CONFIGS, tiny
from tests.downstream.setting import removed_values, some_mask

TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])


def plan(adaptation: Adaptation, everything: bool = False) -> TrainableSpec:
    return TrainableSpec(adaptation, range(2, 4), everything, rank=2, seed=0)


def with_updates(kind: str, held: bool):  # type: ignore[no-untyped-def]
    """A model with its removed weights at zero and LoRA matrices that are not."""
    model = tiny(kind)
    mask = some_mask(model)
    ablate_(model, maskable_matrices(model), mask)
    hold = ZeroConstraint(
        model, removed_bits(model, maskable_matrices(model), mask) if held else {}
    )
    adapt(model, plan(Adaptation.LORA), hold)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, layer in lora_layers(model):
            weight = layer.lora_B["default"].weight
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    return model, mask, hold


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("kind", list(CONFIGS))
@torch.no_grad()
def test_merged_lora_computes_what_adapted_lora_does(kind: str, held: bool) -> None:
    model, mask, hold = with_updates(kind, held)
    adapted, plain = model(TOKENS).logits, tiny(kind)
    merge_lora(model, hold)
    assert not lora_layers(model)
    torch.testing.assert_close(model(TOKENS).logits, adapted, atol=1e-5, rtol=1e-5)
    ablate_(plain, maskable_matrices(plain), mask)
    assert (adapted - plain(TOKENS).logits).abs().max() > 1e-3
    assert bool((removed_values(model, mask) == 0).all()) is held


def test_the_matrices_of_the_chosen_blocks_alone_get_lora() -> None:
    model = tiny("gpt2")
    trained = adapt(model, plan(Adaptation.LORA), ZeroConstraint(model, {}))
    names = [name for name, _ in lora_layers(model)]
    inner = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert names == [f"transformer.h.{block}.{path}" for block in (2, 3) for path in inner]
    assert len(trained) == 2 * len(names)


def test_lora_starts_as_the_model_and_its_seed_decides_the_rest() -> None:
    state = torch.get_rng_state()
    models = [tiny("gpt2") for _ in range(3)]
    plain = tiny("gpt2")(TOKENS).logits
    seeds = (0, 0, 1)
    for model, seed in zip(models, seeds, strict=True):
        adapt(
            model,
            TrainableSpec(Adaptation.LORA, range(2, 4), False, 2, seed),
            ZeroConstraint(model, {}),
        )
        torch.testing.assert_close(model(TOKENS).logits, plain)
    first, same, other = (lora_layers(model)[0][1].lora_A["default"].weight for model in models)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    torch.set_rng_state(state)


def test_head_only_opens_nothing_and_full_opens_blocks_or_everything() -> None:
    model = tiny("gpt2")
    assert adapt(model, plan(Adaptation.HEAD), ZeroConstraint(model, {})) == []
    some = adapt(model, plan(Adaptation.FULL), ZeroConstraint(model, {}))
    opened = {name for name, each in model.named_parameters() if each.requires_grad}
    prefixes = ("transformer.h.2", "transformer.h.3", "transformer.ln_f")
    assert opened == {name for name, _ in model.named_parameters() if name.startswith(prefixes)}
    assert len(some) == len(opened)
    assert len(adapt(model, plan(Adaptation.FULL, True), ZeroConstraint(model, {}))) == len(
        list(model.parameters())
    )
