import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from knowsub.architectures import maskable_matrices
from knowsub.downstream import model as model_file
from knowsub.downstream.finetune import Outcome, Schedule, finetune
from knowsub.downstream.model import (
    ADAPTER,
    ChoiceModel,
    FinetuneContext,
    TrainableSpec,
    ZeroConstraint,
    adapt,
    lora_layers,
    removed_weights,
)
from knowsub.downstream.options import Adaptation, Readout, RemovedWeights, TrainableBlocks
from knowsub.masks.ablation import ablate_
from knowsub.masks.mask import Mask
from tests.architectures import CONFIGS, tiny
from tests.downstream.setting import options, questions, random_mask, removed_values, word_tokenizer


def test_the_bits_of_the_parameters_are_those_of_the_matrices() -> None:
    model = tiny("gpt2")
    mask = random_mask(model)
    bits = removed_weights(model, maskable_matrices(model), mask)
    assert sum(int(own.sum()) for own in bits.values()) == mask.size
    for matrix in maskable_matrices(model):
        assert torch.equal(matrix.view(bits[matrix.parameter]), mask.bits[matrix.name])


def test_a_mask_of_another_model_is_refused() -> None:
    model = tiny("gpt2")
    with pytest.raises(ValueError, match=r"matrix 'blocks\.9\.q', which the model lacks"):
        removed_weights(
            model, maskable_matrices(model), Mask({"blocks.9.q": torch.ones(2).bool()}, "other")
        )


def test_constrained_weights_and_their_gradients_are_set_to_zero_and_no_others() -> None:
    model = tiny("gpt2").requires_grad_(True)
    mask = random_mask(model)
    constraint = ZeroConstraint(model, removed_weights(model, maskable_matrices(model), mask))
    assert not removed_values(model, mask).any()
    model(torch.tensor([[1, 2, 3]])).logits.square().sum().backward()
    before = {name: each.grad.clone() for name, each in model.named_parameters()}
    constraint.zero_gradients()
    for name, parameter in model.named_parameters():
        bits = constraint.bits(parameter)
        if bits is None:
            assert torch.equal(parameter.grad, before[name])
        else:
            assert not parameter.grad[bits].any()
            assert torch.equal(parameter.grad[~bits], before[name][~bits])


def test_a_constrained_weight_that_is_not_zero_stops_the_run() -> None:
    model = tiny("gpt2")
    mask = random_mask(model)
    constraint = ZeroConstraint(model, removed_weights(model, maskable_matrices(model), mask))
    constraint.check()
    with torch.no_grad():
        model.get_parameter("transformer.h.3.mlp.c_fc.weight").add_(1e-30)
    with pytest.raises(RuntimeError, match="a removed weight is not zero"):
        constraint.check()
    constraint.zero_weights()
    constraint.check()


TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])


def spec(adaptation: Adaptation, whole_model: bool = False) -> TrainableSpec:
    return TrainableSpec(adaptation, range(2, 4), whole_model, rank=2, seed=0)


@torch.no_grad()
def merge_lora(model: PreTrainedModel, constraint: ZeroConstraint) -> None:
    """Write the LoRA updates into the weights and take the LoRA layers out."""
    for name, layer in lora_layers(model).items():
        weight = layer.base_layer.weight
        merged = weight + layer.get_delta_weight(ADAPTER)
        bits = constraint.bits(weight)
        weight.copy_(merged if bits is None else merged.masked_fill(bits, 0.0))
        model.set_submodule(name, layer.base_layer)
    constraint.check()


def with_updates(kind: str, held: bool):  # type: ignore[no-untyped-def]
    """A model with its removed weights at zero and LoRA matrices that are not."""
    model = tiny(kind)
    mask = random_mask(model)
    ablate_(model, maskable_matrices(model), mask)
    constraint = ZeroConstraint(
        model, removed_weights(model, maskable_matrices(model), mask) if held else {}
    )
    adapt(model, spec(Adaptation.LORA), constraint)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in lora_layers(model).values():
            weight = layer.lora_B["default"].weight
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    return model, mask, constraint


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("kind", list(CONFIGS))
@torch.no_grad()
def test_merged_lora_computes_what_adapted_lora_does(kind: str, held: bool) -> None:
    model, mask, constraint = with_updates(kind, held)
    adapted, plain = model(TOKENS).logits, tiny(kind)
    merge_lora(model, constraint)
    assert not lora_layers(model)
    torch.testing.assert_close(model(TOKENS).logits, adapted, atol=1e-5, rtol=1e-5)
    ablate_(plain, maskable_matrices(plain), mask)
    assert (adapted - plain(TOKENS).logits).abs().max() > 1e-3
    assert bool((removed_values(model, mask) == 0).all()) is held


def test_the_matrices_of_the_chosen_blocks_alone_get_lora() -> None:
    model = tiny("gpt2")
    trained = adapt(model, spec(Adaptation.LORA), ZeroConstraint(model, {}))
    names = list(lora_layers(model))
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
    first, same, other = (
        next(iter(lora_layers(model).values())).lora_A["default"].weight for model in models
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    torch.set_rng_state(state)


def test_head_only_opens_nothing_and_full_opens_blocks_or_everything() -> None:
    model = tiny("gpt2")
    assert adapt(model, spec(Adaptation.HEAD), ZeroConstraint(model, {})) == []
    trained = adapt(model, spec(Adaptation.FULL), ZeroConstraint(model, {}))
    opened = {name for name, each in model.named_parameters() if each.requires_grad}
    prefixes = ("transformer.h.2", "transformer.h.3", "transformer.ln_f")
    assert opened == {name for name, _ in model.named_parameters() if name.startswith(prefixes)}
    assert len(trained) == len(opened)
    assert len(adapt(model, spec(Adaptation.FULL, True), ZeroConstraint(model, {}))) == len(
        list(model.parameters())
    )


SCHEDULE = Schedule(4, 4, 0.05, 0.02, 2, 4, 0)


def trained(
    kind: str, adaptation: Adaptation, **changes: Any
) -> tuple[PreTrainedModel, Mask, ChoiceModel, Outcome]:
    """Train a tiny remaining model; return the original, the mask, the choice model, outcome."""
    original, chosen = tiny(kind), options(**changes)
    mask = random_mask(original)
    context = FinetuneContext(
        original, word_tokenizer(), {"original": None, "remaining": mask}, chosen
    )
    train, held = context.cache(
        context.encode(questions(12, long=True)), context.encode(questions(6, long=True))
    )
    choice_model = context.choice_model("remaining", adaptation, 0, train)
    outcome = finetune(choice_model, train, {"validation": held}, SCHEDULE, lambda points: None)
    return original, mask, choice_model, outcome


@pytest.mark.parametrize("adaptation", list(Adaptation))
@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama"])
@pytest.mark.parametrize("blocks", list(TrainableBlocks))
def test_removed_weights_stay_zero_bit_for_bit(
    kind: str, adaptation: Adaptation, blocks: TrainableBlocks
) -> None:
    original, mask, choice_model, _ = trained(kind, adaptation, trainable_blocks=blocks)
    before = tiny(kind).state_dict()
    assert all(torch.equal(each, before[name]) for name, each in original.state_dict().items())
    merge_lora(choice_model.model, choice_model.constraint)  # into weights that they may share
    bits = [own for _, own in choice_model.constraint.constrained]
    values = [parameter.detach()[own] for parameter, own in choice_model.constraint.constrained]
    assert sum(int(own.sum()) for own in bits) == mask.size
    assert all(torch.equal(own, torch.zeros_like(own)) for own in values)


def test_free_removed_weights_are_learned_again() -> None:
    _, mask, choice_model, _ = trained(
        "gpt2",
        Adaptation.FULL,
        removed_weights=RemovedWeights.FREE,
        trainable_blocks=TrainableBlocks.ALL,
    )
    assert removed_values(choice_model.model, mask).abs().max() > 1e-4


@pytest.mark.parametrize("removed", list(RemovedWeights))
def test_head_only_changes_no_weight_of_the_model(removed: RemovedWeights) -> None:
    original, mask, choice_model, _ = trained(
        "gpt2", Adaptation.HEAD, trainable_blocks=TrainableBlocks.ALL, removed_weights=removed
    )
    untouched = copy.deepcopy(original)
    ablate_(untouched, maskable_matrices(untouched), mask)
    for name, parameter in choice_model.model.named_parameters():
        assert torch.equal(parameter, untouched.get_parameter(name)), name


def own_parameters(model: PreTrainedModel, original: PreTrainedModel) -> int:
    """The number of a model's parameters' entries that lie in memory of their own."""
    shared = {parameter.data_ptr() for parameter in original.parameters()}
    return sum(each.numel() for each in model.parameters() if each.data_ptr() not in shared)


@pytest.mark.parametrize("name", ["original", "remaining"])
def test_a_model_has_memory_of_its_own_for_what_is_removed_or_trained_alone(name: str) -> None:
    original, chosen = tiny("gpt2"), options(trainable_blocks=TrainableBlocks.ALL)
    masks = {"original": None, "remaining": random_mask(original)}
    context = FinetuneContext(original, word_tokenizer(), masks, chosen)
    train = context.encode(questions(12))
    matrices = maskable_matrices(original)  # the upper half's
    stored = {each.parameter for each in matrices}
    masked = sum(original.get_parameter(each).numel() for each in stored)
    removed = masked if name == "remaining" else 0
    head = context.choice_model(name, Adaptation.HEAD, 0, train)
    assert own_parameters(head.model, original) == removed
    lora = context.choice_model(name, Adaptation.LORA, 0, train)
    assert own_parameters(lora.model, original) == removed + sum(map(torch.numel, lora.trained))
    full = context.choice_model(name, Adaptation.FULL, 0, train)
    assert own_parameters(full.model, original) == sum(map(torch.numel, original.parameters()))


def test_full_finetuning_of_the_upper_blocks_shares_the_lower_ones_and_the_embeddings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_file, "MAX_CACHE_BYTES", 0)  # so that the model is whole
    original, _, choice_model, _ = trained("gpt2", Adaptation.FULL)
    upper = ("transformer.h.2.", "transformer.h.3.", "transformer.ln_f.")
    expected = [each for name, each in original.named_parameters() if name.startswith(upper)]
    assert own_parameters(choice_model.model, original) == sum(map(torch.numel, expected))
    flags = [each.requires_grad for each in original.parameters()]
    assert flags == [each.requires_grad for each in tiny("gpt2").parameters()]


def curve(outcome: Outcome) -> list[float]:
    return [point.loss for point in outcome.points]


@pytest.mark.parametrize("readout", list(Readout))
@pytest.mark.parametrize("kind", list(CONFIGS))
@pytest.mark.parametrize("adaptation", [Adaptation.LORA, Adaptation.FULL])
def test_cached_lower_states_change_no_metric(
    kind: str, adaptation: Adaptation, readout: Readout, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_cache = curve(trained(kind, adaptation, readout=readout)[3])
    monkeypatch.setattr(model_file, "MAX_CACHE_BYTES", 0)
    without = curve(trained(kind, adaptation, readout=readout)[3])
    assert with_cache == pytest.approx(without, abs=2e-4)


def test_likelihood_answers_are_those_of_the_model_without_the_weights() -> None:
    original = tiny("gpt2")
    masks: Mapping[str, Mask | None] = {"original": None, "remaining": random_mask(original, 1.0)}
    context = FinetuneContext(original, word_tokenizer(), masks, options())
    (encoded,) = context.cache(context.encode(questions(12)))
    answers = {name: context.answers(name, {"test": encoded})["test"] for name in masks}
    assert len(answers["original"]) == 12
    assert answers["original"] != answers["remaining"]
