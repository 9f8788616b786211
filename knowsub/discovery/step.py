"""One step's gradient: one sample of the gates, one forward and backward pass for every term."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.discovery import objective
from knowsub.discovery.data import TrainingData
from knowsub.discovery.drawn import Drawn
from knowsub.discovery.options import Precision, TrainOptions
from knowsub.discovery.precision import frozen_in, head_in, library, products, require_exact
from knowsub.discovery.processes import Processes
from knowsub.discovery.terms import DataTerms, Terms
from knowsub.lm.fused import fused
from knowsub.lm.packed import packable
from knowsub.lm.placing import beside
from knowsub.lm.trunk import recomputed
from knowsub.masks.buffers import Buffers
from knowsub.masks.gates import Sample
from knowsub.masks.model import Gates
from knowsub.masks.removal import Replacement

TOGETHER = 1 << 11
"""Tokens of a pass up to which a GPU waits for orders rather than memory: statements and text then
share one, which takes half the orders and keeps the activations of both."""


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
        packed = packable(upper, data.longest)
        lean = fused(packed or upper)
        self.upper = recomputed(lean) if options.recompute else lean
        small = _tokens(data, options) <= TOGETHER and gates.logits.device.type != "cpu"
        self.together = packed is not None and small
        self.processes = processes or Processes()
        self.processes.require_pieces(options.accumulate)
        require_exact(options.matmul)
        self.head = head_in(options.precision, upper.get_output_embeddings())
        self.terms = DataTerms(data, options, self.head)
        self.low = options.precision is Precision.BFLOAT16
        self.buffers = gates.buffers(torch.bfloat16 if self.low else None)
        masked = [gates.model.get_parameter(name) for name in self.buffers.weights]
        frozen = frozen_in(options.precision, self.upper.base_model, masked)
        self.frozen = Replacement(self.upper.base_model, frozen)
        self.once = self.together and options.accumulate == 1 and self.buffers.own_gates

    def __call__(self, sample: Sample, drawn: Drawn) -> tuple[Terms, Float[Tensor, " unit"]]:
        """Return every data term, unweighted, and the gradient of their weighted sum.

        Args:
            sample: One draw of the gates.
            drawn: The sequences.

        Returns:
            Mean of each term over its positions [nats], and the gradient by the logits. It is
            written into the sample, which is of no more use.
        """
        positions = self.terms.positions(drawn)
        expressed = (
            self._expression(sample, drawn.target) if self.options.expression_weight > 0 else None
        )
        self.buffers.write(sample.value)
        with self._installed():
            if self.once:
                sample.drop_value()
                gradient = sample.slope
                with self.buffers.gathering(gradient, once=True):
                    sums = self._backward(drawn, positions)
            else:
                gradient = sample.value.zero_()
                sums = self._in_pieces(drawn, positions, gradient)
                gradient.mul_(sample.slope)
        means = sums / beside(torch.tensor(list(positions.values())), sums)
        terms = dict(zip(positions, means.unbind(), strict=True))
        if expressed is not None:
            terms["expression"] = expressed[0]
            gradient += expressed[1]
        return terms, gradient

    def _in_pieces(
        self, drawn: Drawn, positions: dict[str, int], gradient: Float[Tensor, " unit"]
    ) -> Float[Tensor, " term"]:
        """Add the gradient of all pieces by the gates' values; return the sum of each term."""
        pieces, processes = self.options.accumulate, self.processes
        sums = gradient.new_zeros(len(positions), dtype=torch.float64)
        for index in range(processes.rank, pieces, processes.count):
            part = gradient if pieces == 1 else torch.zeros_like(gradient)
            with self.buffers.gathering(part):
                found = self._backward(drawn.piece(index, pieces), positions)
            processes.add(sums, found)
            if part is not gradient:
                processes.add(gradient, part)
        return sums

    def _backward(self, part: Drawn, positions: dict[str, int]) -> Float[Tensor, " term"]:
        """Add the gradient of one piece; return the sum of each term over its positions."""
        found = dict.fromkeys(positions, torch.zeros((), device=self.gates.logits.device))
        weights, groups = self.terms.weights, self.terms.groups(part)
        with self._products():
            for several in [groups] if self.together else [[group] for group in groups]:
                states = objective.read_states(self.upper, *several)
                sums = self.terms.sums(part, states)
                shares = [weights[name] / positions[name] * sums[name] for name in sums]
                torch.stack(shares).sum().backward()
                found |= {name: total.detach() for name, total in sums.items()}
        return torch.stack([found[name] for name in positions]).double()

    @contextmanager
    def _installed(self) -> Iterator[None]:
        with self.frozen.installed(), self.buffers.installed(), library(self.options.matmul):
            yield

    def _products(self) -> AbstractContextManager[object]:
        return products(self.options.precision, self.gates.logits.device)

    def exact_buffers(self) -> Buffers:
        """Return buffers in the model's own precision; those of the steps if they are."""
        return self.gates.buffers() if self.low else self.buffers

    def _expression(self, sample: Sample, rows: Int[Tensor, " row"]) -> tuple[Tensor, Tensor]:
        """Return the expression term of the subnetwork alone and its weighted gradient."""
        batch = self.data.target[rows]
        labels = beside(batch.labels[batch.reads], sample.value)
        self.buffers.write(sample.value, keep=True)
        gradient = torch.zeros_like(sample.value)
        with self._installed(), self._products():
            states = objective.read_states(self.upper, {"expression": batch})
            total = objective.expression(self.head, states["expression"], labels)
            mean = total / len(labels)
            with self.buffers.gathering(gradient):
                (self.options.expression_weight * mean).backward()
        return mean.detach().double(), gradient.mul_(sample.slope)


def _tokens(data: TrainingData, options: TrainOptions) -> int:
    """Return how many tokens the sequences of a piece have at most, padding included."""
    counts = options.target_batch, options.control_batch, options.near_batch, options.text_batch
    near = None if data.near is None else data.near.batch
    batches = data.target, data.control.batch, near, data.text.batch
    whole = sum(
        min(count, len(batch)) * batch.tokens.shape[1]
        for count, batch in zip(counts, batches, strict=True)
        if batch is not None
    )
    return -(-whole // options.accumulate)
