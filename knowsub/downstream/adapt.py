"""What is trained of a model: the head alone, LoRA matrices beside its weights, or its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from knowsub.anatomy import family, sites
from knowsub.downstream.hold import Hold
from knowsub.downstream.options import Adaptation

ADAPTER = "default"


@dataclass(frozen=True)
class Plan:
    """What may change in a finetuning run."""

    adaptation: Adaptation
    """What is trained beside the head."""
    blocks: Sequence[int]
    """0-based indices of the blocks that may change."""
    everything: bool
    """True if embeddings may change too (full finetuning of the whole model)."""
    rank: int
    """Rank of the LoRA update."""
    seed: int
    """Seed of the LoRA matrices."""


def adapt(model: PreTrainedModel, plan: Plan, hold: Hold) -> list[nn.Parameter]:
    """Prepare a model for finetuning, in place.

    Args:
        model: The model; a copy that nothing else uses.
        plan: What may change.
        hold: Which weights stay zero.

    Returns:
        The parameters to train beside the head; none for head only.

    Raises:
        ValueError: If the architecture is unknown.
    """
    model.requires_grad_(False)
    if plan.adaptation is Adaptation.LORA:
        _add_lora(model, plan, hold)
    elif plan.adaptation is Adaptation.FULL:
        _open(model, plan)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _open(model: PreTrainedModel, plan: Plan) -> None:
    if plan.everything:
        model.requires_grad_(True)
        return
    row = family(model)
    model.get_submodule(row.norm).requires_grad_(True)
    for block in plan.blocks:
        model.get_submodule(f"{row.blocks}.{block}").requires_grad_(True)


def _add_lora(model: PreTrainedModel, plan: Plan, hold: Hold) -> None:
    from peft import LoraConfig, inject_adapter_in_model  # seconds to import, needed here only

    known = {site.parameter: None for site in sites(model, plan.blocks)}
    modules = [name.removesuffix(".weight") for name in known]
    config = LoraConfig(
        r=plan.rank,
        lora_alpha=2 * plan.rank,
        target_modules=modules,
        fan_in_fan_out=isinstance(model.get_submodule(modules[0]), Conv1D),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    for _, layer in lora_layers(model):
        bits = hold.bits(layer.base_layer.weight)
        if bits is not None:
            layer.register_forward_hook(_without(bits))


def _without(bits: Tensor) -> Callable[..., Tensor]:
    """Return a hook that takes a LoRA update's entries at held weights out of the output."""

    def hook(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        surplus = layer.get_delta_weight(ADAPTER).masked_fill(~bits, 0.0)
        if not layer.fan_in_fan_out:
            surplus = surplus.T
        corrected: Tensor = output - inputs[0] @ surplus
        return corrected

    return hook


def lora_layers(model: nn.Module) -> list[tuple[str, Any]]:
    """Return the names and LoRA layers of a model, none if it has none."""
    return [(name, module) for name, module in model.named_modules() if hasattr(module, "lora_A")]


@torch.no_grad()
def merged_weight(layer: Any, hold: Hold) -> Tensor:
    """Return what a LoRA layer's weight is once merged, held weights at zero.

    Args:
        layer: A LoRA layer of `peft`.
        hold: Which weights stay zero.

    Returns:
        The weight, in the stored layout of the base layer.
    """
    weight = layer.base_layer.weight
    whole: Tensor = weight + layer.get_delta_weight(ADAPTER)
    bits = hold.bits(weight)
    return whole if bits is None else whole.masked_fill(bits, 0.0)


@torch.no_grad()
def merge_lora(model: PreTrainedModel, hold: Hold) -> None:
    """Write the LoRA updates into the weights and take the LoRA layers out, in place.

    Args:
        model: A model from `adapt`.
        hold: The same hold; its weights stay exactly zero.
    """
    for name, layer in lora_layers(model):
        layer.base_layer.weight.copy_(merged_weight(layer, hold))
        model.set_submodule(name, layer.base_layer)
    hold.check()
