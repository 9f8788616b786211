"""One step's gradient: one sample of the gates, one forward and backward pass for every term."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.discovery import objective
from knowsub.discovery.data import Reference, TrainingData
from knowsub.discovery.drawn import Drawn
from knowsub.discovery.ignorance import first_reads
from knowsub.discovery.options import Suppression, TrainOptions
from knowsub.discovery.precision import head_in, library, products, require_exact
from knowsub.lm.encode import Batch
from knowsub.masks.gates import Sample
from knowsub.masks.model import Gates
from knowsub.masks.removal import installed

Figures = dict[str, float]
Kept = Mapping[str, tuple[Reference, Int[Tensor, " row"]]]
"""Name of a maintenance term -> its sequences and the rows drawn of them."""


class StepGradient:
    """The gradient of the data terms by the logits of the gates.

    Args:
        gates: The gates.
        upper: The upper blocks of the original model, all parameters frozen.
        data: The training data.
        options: Coefficients, batch sizes and precision.

    Raises:
        ValueError: If this processor does not compute as the options ask.
    """

    def __init__(
        self, gates: Gates, upper: PreTrainedModel, data: TrainingData, options: TrainOptions
    ) -> None:
        self.gates, self.upper, self.data, self.options = gates, upper, data, options
        require_exact(options.matmul)
        self.head = head_in(options.precision, upper.get_output_embeddings())
        self.buffers = gates.buffers()
        self.total = torch.zeros_like(gates.logits)

    def __call__(self, sample: Sample, drawn: Drawn) -> tuple[Figures, Float[Tensor, " unit"]]:
        """Return every data term, unweighted, and the gradient of their weighted sum.

        Args:
            sample: One draw of the gates.
            drawn: The sequences.

        Returns:
            Mean of each term over its positions [nats], and the gradient by the logits, valid
            until the next call.
        """
        pieces = self.options.accumulate
        positions = self._positions(drawn)
        figures: Figures = dict.fromkeys(positions, 0.0)
        self.gates.write(sample, self.buffers)
        with installed(self.gates.model, self.buffers), library(self.options.matmul):
            for index in range(pieces):
                for name, total in self._backward(drawn.piece(index, pieces), positions).items():
                    figures[name] += total / positions[name]
        gradient = self.gates.gradient(sample, self.buffers, out=self.total)
        if self.options.expression_weight > 0:
            figures["expression"], expressed = self._expression(sample, drawn.target)
            gradient += expressed
        return figures, gradient

    def _positions(self, drawn: Drawn) -> dict[str, int]:
        """Return over how many positions each term is a mean."""
        data = self.data
        reads = {
            "suppression": self._suppressed(drawn.target).reads,
            "maintenance": data.control.batch.reads[drawn.control],
            "text": data.text.batch.reads[drawn.text],
        }
        if data.near is not None:
            reads["near"] = data.near.batch.reads[drawn.near]
        if self.options.trace_weight > 0:
            reads["trace"] = reads["suppression"]
        return {name: int(read.sum()) for name, read in reads.items()}

    def _backward(self, part: Drawn, positions: dict[str, int]) -> Figures:
        """Add the gradient of one piece; return the sum of each term over its positions."""
        options, data = self.options, self.data
        kept = {"maintenance": (data.control, part.control), "text": (data.text, part.text)}
        if data.near is not None:
            kept["near"] = (data.near, part.near)
        weights = {
            "suppression": options.suppression_weight,
            "trace": options.trace_weight,
            "maintenance": options.maintenance_weight,
            "near": options.near_weight,
            "text": options.text_weight,
        }
        with self._products():
            sums = self._sums(part, kept)
        shares = [weights[name] / positions[name] * total for name, total in sums.items()]
        torch.stack(shares).sum().backward()
        return {name: total.item() for name, total in sums.items()}

    def _products(self) -> AbstractContextManager[object]:
        return products(self.options.precision, self.gates.logits.device)

    def _sums(self, part: Drawn, kept: Kept) -> dict[str, Tensor]:
        """Return the sum of each term over the positions of one piece."""
        target = self._suppressed(part.target)
        batches = {name: reference.batch[rows] for name, (reference, rows) in kept.items()}
        states = self._states({"suppression": target} | batches)
        sums = {
            name: objective.maintenance(
                self.head, states[name], reference.states[rows][batches[name].reads]
            )
            for name, (reference, rows) in kept.items()
        }
        margins = self.data.ignorance.margins[part.target]
        return sums | self._forgotten(target, states["suppression"], margins)

    def _forgotten(self, target: Batch, states: Tensor, margins: Tensor) -> dict[str, Tensor]:
        """Return the summed terms that act on the target's tails."""
        labels, options, known = target.labels[target.reads], self.options, self.data.ignorance
        kind = options.suppression
        suppressed = objective.suppression(self.head, states, labels, kind, known, margins)
        if options.trace_weight == 0:
            return {"suppression": suppressed}
        told = objective.trace(self.head, states, labels, known.targets)
        return {"suppression": suppressed, "trace": told}

    def _states(self, batches: dict[str, Batch]) -> dict[str, Tensor]:
        """Return the states at the read positions: statements in one pass, text in another."""
        told = {name: batch for name, batch in batches.items() if name != "text"}
        states = dict(zip(told, objective.read_states(self.upper, *told.values()), strict=True))
        text = batches["text"]
        empty = states["suppression"][:0]
        states["text"] = objective.read_states(self.upper, text)[0] if len(text) else empty
        return states

    def _expression(self, sample: Sample, rows: Int[Tensor, " row"]) -> tuple[float, Tensor]:
        """Return the expression term of the subnetwork alone and its weighted gradient."""
        batch = self.data.target[rows]
        labels = batch.labels[batch.reads]
        self.gates.write(sample, self.buffers, keep=True)
        with installed(self.gates.model, self.buffers), library(self.options.matmul):
            with self._products():
                (states,) = objective.read_states(self.upper, batch)
                mean = objective.expression(self.head, states, labels) / len(labels)
            (self.options.expression_weight * mean).backward()
        return mean.item(), self.gates.gradient(sample, self.buffers, keep=True)

    def _suppressed(self, rows: Int[Tensor, " row"]) -> Batch:
        """Return target statements read where suppression acts.

        The uniform term acts on every token of a tail; the others on the first, where the answer
        is chosen.
        """
        batch = self.data.target[rows]
        if self.options.suppression is Suppression.UNIFORM:
            return batch
        return Batch(batch.tokens, first_reads(batch), batch.hidden)
