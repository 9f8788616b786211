"""One step's gradient: one sample of the gates, one forward and backward pass for every term."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.discovery import objective
from knowsub.discovery.data import TrainingData
from knowsub.discovery.drawn import Drawn
from knowsub.discovery.options import Suppression, TrainOptions
from knowsub.discovery.precision import head_in, library, products, require_exact
from knowsub.discovery.processes import Processes
from knowsub.lm.encode import Batch
from knowsub.lm.fused import fused
from knowsub.lm.placing import beside, rows_of
from knowsub.lm.trunk import recomputed
from knowsub.lm.unmasked import unmasked
from knowsub.masks.gates import Sample
from knowsub.masks.model import Gates
from knowsub.masks.removal import installed

Terms = dict[str, Float[Tensor, ""]]
"""Terms by name, where the model is: to look at them is to wait for it."""


class StepGradient:
    """The gradient of the data terms by the logits of the gates.

    Args:
        gates: The gates.
        upper: The upper blocks of the original model, all parameters frozen.
        data: The training data.
        options: Coefficients, batch sizes and precision.
        processes: Who computes; None for this process alone.

    Raises:
        ValueError: If this processor does not compute as the options ask, or the processes cannot
            share the pieces of a step.
    """

    def __init__(
        self,
        gates: Gates,
        upper: PreTrainedModel,
        data: TrainingData,
        options: TrainOptions,
        processes: Processes | None = None,
    ) -> None:
        self.gates, self.data, self.options = gates, data, options
        lean = fused(unmasked(upper, data.longest))
        self.upper = recomputed(lean) if options.recompute else lean
        self.processes = processes or Processes()
        self.processes.require_pieces(options.accumulate)
        require_exact(options.matmul)
        self.head = head_in(options.precision, upper.get_output_embeddings())
        self.buffers = gates.buffers()

    def __call__(self, sample: Sample, drawn: Drawn) -> tuple[Terms, Float[Tensor, " unit"]]:
        """Return every data term, unweighted, and the gradient of their weighted sum.

        Args:
            sample: One draw of the gates.
            drawn: The sequences.

        Returns:
            Mean of each term over its positions [nats], and the gradient by the logits. It is
            written into the values of the sample, which are of no more use.
        """
        pieces, processes = self.options.accumulate, self.processes
        positions = self._positions(drawn)
        expressed = (
            self._expression(sample, drawn.target) if self.options.expression_weight > 0 else None
        )
        self.gates.write(sample.value, self.buffers)
        names = list(positions)
        gradient = sample.value.zero_()
        sums = torch.zeros(len(names), dtype=torch.float64, device=gradient.device)
        with installed(self.gates.model, self.buffers), library(self.options.matmul):
            for index in range(processes.rank, pieces, processes.count):
                part = gradient if pieces == 1 else torch.zeros_like(gradient)
                with self.gates.gathering(self.buffers, part):
                    found = self._backward(drawn.piece(index, pieces), positions)
                processes.add(sums, torch.stack([found[name] for name in names]).double())
                self.gates.carry(part, sample)
                if part is not gradient:
                    processes.add(gradient, part)
        means = sums / beside(torch.tensor(list(positions.values())), sums)
        terms = dict(zip(names, means.unbind(), strict=True))
        if expressed is not None:
            terms["expression"] = expressed[0]
            gradient += expressed[1]
        return terms, gradient

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

    def _backward(self, part: Drawn, positions: dict[str, int]) -> Terms:
        """Add the gradient of one piece; return the sum of each term over its positions."""
        options = self.options
        weights = {
            "suppression": options.suppression_weight,
            "trace": options.trace_weight,
            "maintenance": options.maintenance_weight,
            "near": options.near_weight,
            "text": options.text_weight,
        }
        found = dict.fromkeys(positions, torch.zeros((), device=self.gates.logits.device))
        with self._products():
            for terms in (self._told, self._read):
                sums = terms(part)
                if shares := [weights[name] / positions[name] * sums[name] for name in sums]:
                    torch.stack(shares).sum().backward()
                found |= {name: total.detach() for name, total in sums.items()}
        return found

    def _products(self) -> AbstractContextManager[object]:
        return products(self.options.precision, self.gates.logits.device)

    def _told(self, part: Drawn) -> Terms:
        """Return the summed terms of one piece's statements, from one pass."""
        data, target = self.data, self._suppressed(part.target)
        kept = {"maintenance": (data.control, part.control)}
        if data.near is not None:
            kept["near"] = (data.near, part.near)
        batches = [reference.batch[rows] for reference, rows in kept.values()]
        forgotten, *others = objective.read_states(self.upper, target, *batches)
        sums = {
            name: reference.divergence(self.head, states, rows)
            for (name, (reference, rows)), states in zip(kept.items(), others, strict=True)
        }
        standings = rows_of(data.ignorance.standings, part.target)
        return sums | self._forgotten(target, forgotten, standings)

    def _read(self, part: Drawn) -> Terms:
        """Return the summed term of one piece's text; none if the piece has no text."""
        text, rows = self.data.text, part.text
        if not len(rows):
            return {}
        (states,) = objective.read_states(self.upper, text.batch[rows])
        return {"text": text.divergence(self.head, states, rows)}

    def _forgotten(self, target: Batch, states: Tensor, standings: Tensor) -> Terms:
        """Return the summed terms that act on the target's tails."""
        options, known = self.options, self.data.ignorance
        kind, labels = options.suppression, beside(target.labels[target.reads], states)
        suppressed = objective.suppression(self.head, states, labels, kind, known, standings)
        if options.trace_weight == 0:
            return {"suppression": suppressed}
        told = objective.trace(self.head, states, labels, known.targets)
        return {"suppression": suppressed, "trace": told}

    def _expression(self, sample: Sample, rows: Int[Tensor, " row"]) -> tuple[Tensor, Tensor]:
        """Return the expression term of the subnetwork alone and its weighted gradient."""
        batch = self.data.target[rows]
        labels = beside(batch.labels[batch.reads], sample.value)
        self.gates.write(sample.value, self.buffers, keep=True)
        with installed(self.gates.model, self.buffers), library(self.options.matmul):
            with self._products():
                (states,) = objective.read_states(self.upper, batch)
                mean = objective.expression(self.head, states, labels) / len(labels)
            gradient = torch.zeros_like(sample.value)
            with self.gates.gathering(self.buffers, gradient):
                (self.options.expression_weight * mean).backward()
        return mean.detach().double(), self.gates.carry(gradient, sample, keep=True)

    def _suppressed(self, rows: Int[Tensor, " row"]) -> Batch:
        """Return target statements read where suppression acts.

        The uniform term acts on every token of a tail; the others on the first, where the answer
        is chosen.
        """
        batch = self.data.target[rows]
        if self.options.suppression is Suppression.UNIFORM:
            return batch
        return Batch(batch.tokens, batch.first_reads, batch.hidden)
