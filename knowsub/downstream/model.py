"""What is trained of a model, and how it chooses: LM head, LoRA or all weights; removed weights stay zero.

With `hold`, a removed weight is exactly zero at every step and afterwards:

- head only: no weight of the model changes at all;
- full: its gradient is set to zero before the optimiser sees it, and the weight is set to zero
  after every optimiser step, whatever the optimiser does with momentum or decay;
- LoRA: the update that a pair of low-rank matrices stands for touches every weight of its matrix,
  the removed ones too. Its entries at removed weights are taken out of every forward pass, so the
  model that is trained and judged is the one whose merged weight is `W + delta * (1 - m)`. Merging
  writes just that: removed weights stay zero, and merged and adapted model agree.

With `free`, none of this happens: weights start at zero and may be learned again, by LoRA as well.
That is the question of relearning itself, and it is asked separately.

Readout `match` takes the states that predict the tokens of a choice, times the output embeddings
of those tokens, element by element, averaged over the choice's tokens. With all weights of the
multiple-choice head equal it is the LM head, so the head learns which of the model's own evidence
for a choice to trust.

Readout `last` takes the state of the last token after prompt and choice, as the multiple-choice
head of GPT-2's double-heads model does. It needs a model whose states say how well the text just
read fits what came before; a model trained to predict tails only has no reason to: on the
embedded model the head then stays near .5 on other questions, whatever is removed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from knowsub.architectures import MaskableMatrix, architecture, maskable_matrices
from knowsub.downstream.encode import Encoded
from knowsub.downstream.options import Adaptation, Readout
from knowsub.lm.blocks import last_hidden
from knowsub.masks.ablation import masked_matrices
from knowsub.masks.mask import Mask


def removed_bits(
    model: nn.Module, sites: Sequence[MaskableMatrix], mask: Mask
) -> dict[str, Tensor]:
    """Return which weights of each stored parameter a mask removes.

    Args:
        model: The model.
        sites: The model's matrices; the mask's sites must be among them.
        mask: The mask.

    Returns:
        Parameter name -> boolean tensor of the parameter's shape, True = removed.

    Raises:
        ValueError: If the mask names a site that the model lacks.
    """
    bits: dict[str, Tensor] = {}
    for matrix in masked_matrices(sites, mask):
        shape = model.get_parameter(matrix.parameter).shape
        whole = bits.setdefault(matrix.parameter, torch.zeros(shape, dtype=torch.bool))
        matrix.view(whole).copy_(mask.bits[matrix.name])
    return bits


class ZeroConstraint:
    """Sets chosen weights of a model to zero and keeps them there.

    Args:
        model: The model, before LoRA layers are put in.
        removed: Parameter name -> boolean tensor, True = held at zero; empty holds nothing.
    """

    def __init__(self, model: nn.Module, removed: Mapping[str, Tensor]) -> None:
        named = {name: model.get_parameter(name) for name in removed}
        self._held = [(named[name], bits.to(named[name].device)) for name, bits in removed.items()]
        self.weights()

    def bits(self, parameter: Tensor) -> Tensor | None:
        """Return which weights of a parameter are held, or None."""
        return next((bits for own, bits in self._held if own is parameter), None)

    @torch.no_grad()
    def gradients(self) -> None:
        """Set the gradients of the held weights to zero; to be called before every clipping."""
        for parameter, bits in self._held:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(bits, 0.0)

    @torch.no_grad()
    def weights(self) -> None:
        """Set the held weights to zero; to be called after every optimiser step."""
        for parameter, bits in self._held:
            parameter.masked_fill_(bits, 0.0)

    def check(self) -> None:
        """Make sure that every held weight is zero.

        Raises:
            RuntimeError: If one is not; finetuning stops rather than report a wrong figure.
        """
        for parameter, bits in self._held:
            if bool((parameter.detach()[bits] != 0).any()):
                raise RuntimeError("a removed weight is not zero")


ADAPTER = "default"


@dataclass(frozen=True)
class TrainableSpec:
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


def adapt(model: PreTrainedModel, plan: TrainableSpec, hold: ZeroConstraint) -> list[nn.Parameter]:
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


def _open(model: PreTrainedModel, plan: TrainableSpec) -> None:
    if plan.everything:
        model.requires_grad_(True)
        return
    row = architecture(model)
    model.get_submodule(row.norm).requires_grad_(True)
    for block in plan.blocks:
        model.get_submodule(f"{row.blocks}.{block}").requires_grad_(True)


def _add_lora(model: PreTrainedModel, plan: TrainableSpec, hold: ZeroConstraint) -> None:
    from peft import LoraConfig, inject_adapter_in_model  # seconds to import, needed here only

    known = {site.parameter: None for site in maskable_matrices(model, plan.blocks)}
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
def merged_weight(layer: Any, hold: ZeroConstraint) -> Tensor:
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
def merge_lora(model: PreTrainedModel, hold: ZeroConstraint) -> None:
    """Write the LoRA updates into the weights and take the LoRA layers out, in place.

    Args:
        model: A model from `adapt`.
        hold: The same hold; its weights stay exactly zero.
    """
    for name, layer in lora_layers(model):
        layer.base_layer.weight.copy_(merged_weight(layer, hold))
        model.set_submodule(name, layer.base_layer)
    hold.check()


class ChoiceHead(nn.Module):
    """A linear multiple-choice head: one score per choice, softmax over the choices.

    Its initial weights are normal of standard deviation 0.02, as in GPT-2.

    Args:
        scale: Standard deviation of each feature; features are divided by it, those that hardly
            vary by a tenth of the mean.
        generator: Source of the initial weights, on the CPU.
    """

    scale: Float[Tensor, " hidden"]

    def __init__(self, scale: Float[Tensor, " hidden"], generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("scale", scale.clamp_min(0.1 * float(scale.mean()) + 1e-12))
        initial = torch.empty(scale.shape).normal_(0.0, 0.02, generator=generator)
        self.weight = nn.Parameter(initial.to(scale))

    def forward(
        self, features: Float[Tensor, "question choice hidden"], encoded: Encoded
    ) -> Float[Tensor, "question choice"]:
        """Return the logit of every choice; those that a question lacks get -inf."""
        scores = (features / self.scale) @ self.weight
        return scores.masked_fill(~encoded.exists, -torch.inf)


def states(
    model: PreTrainedModel, encoded: Encoded
) -> Float[Tensor, "question choice token hidden"]:
    """Return the final states at the positions where choices are read.

    Args:
        model: The model, or its upper part where the batch carries trunk states.
        encoded: The questions.

    Returns:
        The states; those beyond a choice's tokens mean nothing.
    """
    hidden = last_hidden(model, encoded.batch)
    return hidden[encoded.row[..., None], encoded.position]


def features(
    model: PreTrainedModel, encoded: Encoded, readout: Readout
) -> Float[Tensor, "question choice hidden"]:
    """Return what the multiple-choice head reads of every choice.

    Args:
        model: The model, or its upper part where the batch carries trunk states.
        encoded: The questions, encoded for the same readout.
        readout: What is read.

    Returns:
        One vector per choice; zero for a choice that a question lacks.
    """
    if encoded.features is not None:
        return encoded.features
    read = states(model, encoded)
    if readout is Readout.MATCH:
        read = read * _embeddings(model).weight[encoded.token]
    used = encoded.used[..., None]
    return (read * used).sum(dim=2) / used.sum(dim=2).clamp_min(1)


@torch.no_grad()
def all_features(
    model: PreTrainedModel, encoded: Encoded, readout: Readout, questions: int = 256
) -> Encoded:
    """Return questions with what the head reads of them, computed `questions` at a time."""
    parts = [features(model, encoded[index], readout) for index in pieces(encoded, questions)]
    return encoded.with_features(torch.cat(parts))


@torch.no_grad()
def choice_nll(
    model: PreTrainedModel, encoded: Encoded, questions: int = 64
) -> Float[Tensor, "question choice"]:
    """Return what a model without any head makes of every choice.

    Args:
        model: The model, or its upper part where the batch carries trunk states.
        encoded: The questions, encoded for readout `match`.
        questions: Questions per forward pass.

    Returns:
        NLL of each choice after its prompt [nats per token]; inf for a choice that does not
        exist. The least is the model's answer.
    """
    head, parts = _embeddings(model), []
    for index in pieces(encoded, questions):
        part = encoded[index]
        read, back = _distinct(part)
        hidden = last_hidden(model, part.batch)[read[:, 0], read[:, 1]]
        logits = torch.log_softmax(head(hidden).float(), dim=-1)
        nll = -logits[back, part.token[part.used]]
        table = torch.zeros(part.used.shape, device=nll.device)
        table[part.used] = nll
        mean = table.sum(dim=2) / part.used.sum(dim=2).clamp_min(1)
        parts.append(mean.masked_fill(~part.exists, torch.inf))
    return torch.cat(parts)


def pieces(encoded: Encoded, questions: int) -> tuple[Int[Tensor, " question"], ...]:
    """Return the indices of the questions in runs of at most `questions`."""
    return torch.split(torch.arange(len(encoded), device=encoded.answer.device), questions)


def _embeddings(model: PreTrainedModel) -> nn.Linear:
    head: nn.Linear = model.get_output_embeddings()
    return head


def _distinct(encoded: Encoded) -> tuple[Int[Tensor, "place 2"], Int[Tensor, " read"]]:
    """Return the distinct (sequence, position) pairs read, and for each read its pair."""
    rows = encoded.row[..., None].expand_as(encoded.position)[encoded.used]
    places = torch.stack([rows, encoded.position[encoded.used]], dim=1)
    read, back = torch.unique(places, dim=0, return_inverse=True)
    return read, back
