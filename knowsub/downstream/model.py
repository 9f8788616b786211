"""The models that are finetuned: what is trained of them, and which weights stay zero.

With `removed_weights: hold`, a removed weight is exactly zero at every step and afterwards:

- head: no weight of the model changes at all;
- full: its gradient is set to zero before the optimizer sees it, and the weight is set to zero
  after every optimizer step, whatever the optimizer does with momentum or decay;
- LoRA: the product of the low-rank matrices touches every weight of its matrix, the removed ones
  too. Its entries at removed weights are taken out of every forward pass, so the model that is
  trained and evaluated is the one whose merged weight is `(W + delta) * (1 - mask)`.

With `free`, none of this happens: weights start at zero and may be learned again, by LoRA as well.
That is the question of relearning itself, and it is asked separately.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from knowsub.architectures import MaskableMatrix, architecture, block_count
from knowsub.downstream.encode import EncodedQuestions, choice_nll, encode_questions, features
from knowsub.downstream.options import (
    Adaptation,
    FinetuneOptions,
    Readout,
    RemovedWeights,
    TrainableBlocks,
)
from knowsub.downstream.questions import Question
from knowsub.lm.blocks import cache_lower_states, sharing_copy, upper_blocks
from knowsub.lm.load import context_length
from knowsub.lm.lora import ADAPTER, add_lora
from knowsub.masks.ablation import ablate_, all_matrices, masked_matrices
from knowsub.masks.mask import Mask


def removed_weights(
    model: nn.Module, matrices: Sequence[MaskableMatrix], mask: Mask
) -> dict[str, Tensor]:
    """Return parameter name -> boolean tensor of its shape, True where a mask removes the weight.

    A ValueError says if the mask does not fit the matrices.
    """
    removed: dict[str, Tensor] = {}
    for matrix in masked_matrices(matrices, mask):
        shape = model.get_parameter(matrix.parameter).shape
        stored = removed.setdefault(matrix.parameter, torch.zeros(shape, dtype=torch.bool))
        matrix.view(stored).copy_(mask.bits[matrix.name])
    return removed


class ZeroConstraint:
    """Sets chosen weights of a model to zero and keeps them there.

    Args:
        model: The model, before LoRA layers are put in.
        removed: Parameter name -> boolean tensor, True = stays zero; empty constrains nothing.
    """

    def __init__(self, model: nn.Module, removed: Mapping[str, Tensor]) -> None:
        parameters = {name: model.get_parameter(name) for name in removed}
        self.constrained = [
            (parameters[name], bits.to(parameters[name].device)) for name, bits in removed.items()
        ]
        self.zero_weights()

    def bits(self, parameter: Tensor) -> Tensor | None:
        """Return which weights of a parameter stay zero, or None."""
        return next((bits for each, bits in self.constrained if each is parameter), None)

    @torch.no_grad()
    def zero_gradients(self) -> None:
        """Set the gradients of the weights to zero; to be called before every clipping."""
        for parameter, bits in self.constrained:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(bits, 0.0)

    @torch.no_grad()
    def zero_weights(self) -> None:
        """Set the weights to zero; to be called after every optimizer step."""
        for parameter, bits in self.constrained:
            parameter.masked_fill_(bits, 0.0)

    def check(self) -> None:
        """Raise a RuntimeError unless every weight is zero: better no metric than a wrong one."""
        for parameter, bits in self.constrained:
            if bool((parameter.detach()[bits] != 0).any()):
                raise RuntimeError("a removed weight is not zero")


@dataclass(frozen=True)
class TrainableSpec:
    """What may change in a finetuning run."""

    adaptation: Adaptation
    """What is trained beside the head."""
    blocks: Sequence[int]
    """0-based indices of the blocks that may change."""
    whole_model: bool
    """True if embeddings may change too (full finetuning of the whole model)."""
    rank: int
    """Rank of the LoRA update."""
    seed: int
    """Seed of the LoRA matrices."""


def adapt(
    model: PreTrainedModel, spec: TrainableSpec, constraint: ZeroConstraint
) -> list[nn.Parameter]:
    """Prepare a model for finetuning, in place; return what to train beside the head."""
    model.requires_grad_(False)
    if spec.adaptation is Adaptation.LORA:
        add_lora(model, spec.blocks, spec.rank, spec.seed)
        _hold_zeros(model, constraint)
    for name in trainable_names(model, spec):
        model.get_parameter(name).requires_grad_(True)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def trainable_names(model: PreTrainedModel, spec: TrainableSpec) -> list[str]:
    """Return the names of a model's own parameters that a finetuning run changes."""
    if spec.adaptation is not Adaptation.FULL:
        return []
    names = [name for name, _ in model.named_parameters()]
    if spec.whole_model:
        return names
    paths = architecture(model)
    parts = (f"{paths.norm}.", *(f"{paths.blocks}.{block}." for block in spec.blocks))
    return [name for name in names if name.startswith(parts)]


def _hold_zeros(model: PreTrainedModel, constraint: ZeroConstraint) -> None:
    """Let no low-rank update reach a removed weight."""
    for layer in lora_layers(model).values():
        bits = constraint.bits(layer.base_layer.weight)
        if bits is not None:
            layer.register_forward_hook(_subtract_update_at(bits))


def _subtract_update_at(bits: Tensor) -> Callable[..., Tensor]:
    """Return a hook that takes a LoRA update's entries at removed weights out of the output."""

    def hook(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        surplus = layer.get_delta_weight(ADAPTER).masked_fill(~bits, 0.0)
        if not layer.fan_in_fan_out:
            surplus = surplus.T
        corrected: Tensor = output - inputs[0] @ surplus
        return corrected

    return hook


def lora_layers(model: nn.Module) -> dict[str, Any]:
    """Return name -> LoRA layer of a model."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


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
        self, features: Float[Tensor, "question choice hidden"], encoded: EncodedQuestions
    ) -> Float[Tensor, "question choice"]:
        """Return the logit of every choice; those that a question lacks get -inf."""
        scores = (features / self.scale) @ self.weight
        return scores.masked_fill(~encoded.exists, -torch.inf)


@dataclass(frozen=True)
class ChoiceModel:
    """A model with a multiple-choice head, ready to be trained."""

    model: PreTrainedModel
    """The model, or its upper part where the questions carry the states that enter it."""
    head: ChoiceHead
    """The multiple-choice head."""
    trained: list[nn.Parameter]
    """Parameters trained beside the head's."""
    constraint: ZeroConstraint
    """Weights that stay zero."""
    readout: Readout
    """What the head reads."""

    def logits(self, encoded: EncodedQuestions) -> Float[Tensor, "question choice"]:
        """Return the logit of every choice."""
        scores: Tensor = self.head(features(self.model, encoded, self.readout), encoded)
        return scores


MAX_CACHE_BYTES = 2**30
"""Most memory that cached states may take [bytes]; above it they are computed every step."""


class FinetuneContext:
    """The original model and the masks removed from it: encodes questions, makes choice models.

    Where only the blocks from the first masked one on may change, the states that enter them are
    computed once for all models: masks lie above them.

    Args:
        model: The original model; never changed.
        tokenizer: Its tokenizer.
        masks: Name of a model -> mask removed from it, None = the original.
        options: Section `finetune` of the parameters.

    Raises:
        ValueError: If a mask does not fit the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        masks: Mapping[str, Mask | None],
        options: FinetuneOptions,
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._masks, self._options = dict(masks), options
        self._matrices = all_matrices(model)
        self._removed = {
            name: removed_weights(model, self._matrices, mask) if mask else {}
            for name, mask in self._masks.items()
        }
        names = {name for mask in self._masks.values() if mask for name in mask.bits}
        masked_blocks = [matrix.block for matrix in self._matrices if matrix.name in names]
        self._first = min(masked_blocks, default=block_count(model) // 2)
        self._upper_only = options.trainable_blocks is TrainableBlocks.UPPER
        self._cached = self._upper_only

    def encode(
        self, questions: Sequence[Question], readout: Readout | None = None
    ) -> EncodedQuestions:
        """Return questions as tensors, for the chosen readout unless another is given."""
        encoded = encode_questions(
            self._tokenizer,
            questions,
            readout or self._options.readout,
            context_length(self._model),
        )
        return encoded.to(self._model.device)

    def cache(self, *encoded: EncodedQuestions) -> list[EncodedQuestions]:
        """Return questions with the states that enter the first masked block, if they all fit.

        Pass everything that will be trained and evaluated on, before making a choice model.
        """
        width = self._model.config.hidden_size * 4
        tokens = sum(each.batch.tokens.numel() for each in encoded)
        self._cached &= tokens * width <= MAX_CACHE_BYTES
        if not self._cached:
            return list(encoded)
        return [
            replace(each, batch=cache_lower_states(self._model, self._first, each.batch))
            for each in encoded
        ]

    def answers(self, name: str, splits: Mapping[str, EncodedQuestions]) -> dict[str, list[bool]]:
        """Return which questions a model answers by likelihood, without head or finetuning.

        Args:
            name: Name of the model.
            splits: Split -> questions encoded for `match`.

        Returns:
            Split -> for each question whether its right choice has the lowest NLL per token.
        """
        model = self._cut(self._remaining(name, ()))
        return {
            split: (choice_nll(model, encoded).argmin(dim=1) == encoded.answer).tolist()
            for split, encoded in splits.items()
        }

    def choice_model(
        self, name: str, adaptation: Adaptation, seed: int, train: EncodedQuestions
    ) -> ChoiceModel:
        """Return a new choice model over a model that shares with the original what stays as it is.

        Args:
            name: Name of the model.
            adaptation: What will be trained beside the head.
            seed: Seed of the head and of the LoRA matrices.
            train: The training questions; the scale of the head's features is theirs.

        Returns:
            The choice model.
        """
        options = self._options
        blocks = range(self._first if self._upper_only else 0, block_count(self._model))
        spec = TrainableSpec(adaptation, blocks, not self._upper_only, options.lora_rank, seed)
        model = self._remaining(name, trainable_names(self._model, spec))
        hold = options.removed_weights is RemovedWeights.HOLD
        constraint = ZeroConstraint(model, self._removed[name] if hold else {})
        trained = adapt(model, spec, constraint)
        model = self._cut(model)
        head = ChoiceHead(self._feature_scale(model, train), torch.Generator().manual_seed(seed))
        return ChoiceModel(model, head, trained, constraint, options.readout)

    @torch.no_grad()
    def _feature_scale(
        self, model: PreTrainedModel, train: EncodedQuestions
    ) -> Float[Tensor, " hidden"]:
        first = train[torch.arange(min(256, len(train)), device=train.answer.device)]
        return features(model, first, self._options.readout)[first.exists].std(dim=0)

    def _remaining(self, name: str, trained: Collection[str]) -> PreTrainedModel:
        """Return a model with a mask's weights at zero, to be trained in some parameters."""
        model = sharing_copy(self._model, {*trained, *self._removed[name]})
        mask = self._masks[name]
        if mask is not None:
            ablate_(model, self._matrices, mask)
        model.eval()
        return model

    def _cut(self, model: PreTrainedModel) -> PreTrainedModel:
        return upper_blocks(model, self._first) if self._cached else model
