"""The published algorithm written plainly, to measure the search against.

Three separate masked forward passes of the whole model, each with a sample of its own; full
logits; two forward passes of the original model; autograd everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from knowsub.architectures import MaskableMatrix
from knowsub.lm.batch import Batch
from knowsub.masks.ablation import applied


class Straightforward:
    """A search whose steps are written the obvious way."""

    def __init__(
        self,
        model: PreTrainedModel,
        matrices: tuple[MaskableMatrix, ...],
        lr: float,
        weights: Mapping[str, float],
        initial: float = 0.45,
    ) -> None:
        """Give every weight of the matrices a logit.

        Args:
            model: The original model, all parameters frozen.
            matrices: The maskable matrices.
            lr: Learning rate of Adam.
            weights: Coefficients of `suppression`, `control`, `text` and `sparsity`.
            initial: Initial probability of an open gate.
        """
        self.model, self.matrices, self.weights = model, matrices, weights
        logit = torch.logit(torch.tensor(initial)).item()
        self.logits = {
            matrix.name: torch.full(matrix.shape, logit, device=model.device).requires_grad_()
            for matrix in matrices
        }
        self.optimizer = torch.optim.Adam(self.logits.values(), lr=lr)

    def step(self, target: Batch, control: Batch, text: Batch) -> dict[str, float]:
        """Do one step on three batches of tokens; return the terms [nats]."""
        terms = {
            "suppression": self._suppression(target),
            "control": self._divergence(control),
            "text": self._divergence(text),
            "sparsity": torch.cat(
                [torch.sigmoid(logits).flatten() for logits in self.logits.values()]
            ).mean(),
        }
        loss = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {name: term.item() for name, term in terms.items()}

    def _suppression(self, batch: Batch) -> Tensor:
        masked = self._masked(batch).log_softmax(dim=-1)[batch.target_mask]
        uniform = torch.full_like(masked, 1 / masked.shape[-1])
        return functional.kl_div(masked, uniform, reduction="batchmean")

    def _divergence(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            original = self.model(batch.tokens, use_cache=False).logits.log_softmax(dim=-1)
        masked = self._masked(batch).log_softmax(dim=-1)[batch.target_mask]
        return functional.kl_div(
            masked, original[batch.target_mask], log_target=True, reduction="batchmean"
        )

    def _masked(self, batch: Batch) -> Tensor:
        with applied(self.model, self._sampled()):
            logits: Tensor = self.model(batch.tokens, use_cache=False).logits
        return logits

    def _sampled(self) -> dict[str, Tensor]:
        weights = {
            matrix.parameter: self.model.get_parameter(matrix.parameter).clone()
            for matrix in self.matrices
        }
        for matrix in self.matrices:
            logits = self.logits[matrix.name]
            soft = torch.sigmoid(logits + torch.logit(torch.rand_like(logits), eps=1e-7))
            bits = (soft > 0.5).float() - soft.detach() + soft
            own = matrix.view(self.model.get_parameter(matrix.parameter))
            matrix.view(weights[matrix.parameter]).copy_(own * (1 - bits))
        return weights
