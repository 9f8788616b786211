"""A plain finetuning step of the same blocks' matrices on the same cached batches."""

from __future__ import annotations

import torch
from torch.nn import functional

from knowsub.discovery.objective import read_states
from knowsub.discovery.trainer import Search


class Finetune:
    """Adam on the maskable matrices, cross-entropy at the read positions."""

    def __init__(self, made: Search, lr: float = 1e-5) -> None:
        """Make the matrices trainable.

        Args:
            made: Holds the model and the batches with their trunk states.
            lr: Learning rate.
        """
        self.upper = made.gradient.upper
        self.batches = [made.data.target, made.data.control.batch, made.data.text.batch]
        names = {site.parameter for site in made.gates.sites}
        self.weights = [made.gates.model.get_parameter(name) for name in sorted(names)]
        for weight in self.weights:
            weight.requires_grad_()
        self.optimizer = torch.optim.Adam(self.weights, lr=lr, fused=True)

    def step(self) -> float:
        """Do one step; return the loss [nats]."""
        *statements, text = self.batches
        states = [*read_states(self.upper, *statements), *read_states(self.upper, text)]
        head = self.upper.get_output_embeddings()
        losses = [
            functional.cross_entropy(head(read), batch.labels[batch.reads])
            for read, batch in zip(states, self.batches, strict=True)
        ]
        loss = torch.stack(losses).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()
