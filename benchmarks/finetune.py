"""A plain finetuning step of the same blocks, as they are, on the same cached batches."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from knowsub.architectures import block_count
from knowsub.discovery.kernels import target_states
from knowsub.discovery.trainer import MaskTrainer
from knowsub.lm.batch import Batch, to_device_of
from knowsub.lm.blocks import upper_blocks
from knowsub.lm.head import lm_head


class Finetune:
    """Adam on the maskable matrices, cross-entropy of the tokens at target positions."""

    def __init__(self, trainer: MaskTrainer, lean: bool, lr: float = 1e-5) -> None:
        """Make the matrices trainable.

        Args:
            trainer: Holds the model and the batches with their lower states.
            lean: Whether the LM head runs at the target positions alone, and statements in one
                pass; otherwise the loss is the Hugging Face model's own.
            lr: Learning rate.
        """
        model, self.lean = trainer.gates.model, lean
        blocks = trainer.options.block_range(block_count(model))
        self.upper = upper_blocks(cast(PreTrainedModel, model), blocks.start)
        self.batches = [trainer.data.target, trainer.data.control.batch, trainer.data.text.batch]
        names = {matrix.parameter for matrix in trainer.gates.matrices}
        self.weights = [model.get_parameter(name) for name in sorted(names)]
        for weight in self.weights:
            weight.requires_grad_()
        self.optimizer = torch.optim.Adam(self.weights, lr=lr, fused=True)

    def step(self) -> float:
        """Do one step; return the loss [nats]."""
        losses = self._at_targets() if self.lean else [self._own(batch) for batch in self.batches]
        loss = torch.stack(losses).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def _at_targets(self) -> list[Tensor]:
        target, control, text = self.batches
        groups: list[dict[str, Batch]] = [{"target": target, "control": control}, {"text": text}]
        head = lm_head(self.upper)
        return [
            functional.cross_entropy(head(states), self._labels(group[name]))
            for group in groups
            for name, states in target_states(self.upper, group).items()
        ]

    def _labels(self, batch: Batch) -> Tensor:
        return to_device_of(batch.labels[batch.target_mask], self.weights[0])

    def _own(self, batch: Batch) -> Tensor:
        labels = torch.full_like(batch.tokens, -100)
        labels[:, 1:][batch.target_mask[:, :-1]] = batch.tokens[:, 1:][batch.target_mask[:, :-1]]
        loss: Tensor = self.upper(
            inputs_embeds=batch.lower_states,
            labels=to_device_of(labels, self.weights[0]),
            use_cache=False,
        ).loss
        return loss
