"""One step's gradient: its minibatch, its terms, one forward and one backward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from knowsub.discovery import losses as objective
from knowsub.discovery.distributed import ProcessGroup
from knowsub.discovery.ignorance import Ignorance
from knowsub.discovery.kernels import can_pack, fused_activations
from knowsub.discovery.options import Precision, Suppression, TrainOptions
from knowsub.discovery.precision import (
    cast_frozen,
    cast_head,
    matmul_autocast,
    matmul_backend,
    require_exact,
)
from knowsub.discovery.selection import StepMetrics
from knowsub.discovery.teacher import Teacher
from knowsub.lm.batch import Batch, take_rows, to_device_of
from knowsub.lm.blocks import activation_checkpointed
from knowsub.masks.ablation import ParameterSwap
from knowsub.masks.gates import Gates, GateSample
from knowsub.masks.weights import MaskedWeights


@dataclass(frozen=True)
class TrainingData:
    """All that one mask is trained on."""

    target: Batch
    """Statements of the target facts."""
    control: Teacher
    """Statements of the control facts."""
    neighborhood: Teacher | None
    """Statements that share words with the target's; None if there are none."""
    n_neighborhood: int
    """How many of them, which come first, state facts; the others are of untold heads."""
    text: Teacher
    """Text blocks of the control LM."""
    ignorance: Ignorance
    """What not knowing looks like, from the control statements."""

    @property
    def longest(self) -> int:
        """Length of the longest sequence [tokens]."""
        kept = [
            self.control,
            self.text,
            *([] if self.neighborhood is None else [self.neighborhood]),
        ]
        return max(batch.tokens.shape[1] for batch in (self.target, *(one.batch for one in kept)))

    @property
    def n_unseen(self) -> int:
        """Number of near statements of untold heads."""
        return (
            0 if self.neighborhood is None else len(self.neighborhood.batch)
        ) - self.n_neighborhood


@dataclass(frozen=True)
class Minibatch:
    """The sequences of one step, by index."""

    target: Int[Tensor, " statement"]
    """Target statements."""
    control: Int[Tensor, " control"]
    """Control statements."""
    neighborhood: Int[Tensor, " near"]
    """Near statements; none if there are none."""
    text: Int[Tensor, " block"]
    """Text blocks."""

    def by_term(self) -> dict[str, Tensor]:
        """Return the sequences of every term that keeps something, by its name."""
        return {"maintenance": self.control, "near": self.neighborhood, "text": self.text}

    def microbatch(self, index: int, pieces: int) -> Minibatch:
        """Return one of several equal pieces of the step's sequences."""
        cut = slice(index, None, pieces)
        return Minibatch(
            self.target[cut], self.control[cut], self.neighborhood[cut], self.text[cut]
        )


def draw_minibatch(data: TrainingData, options: TrainOptions, order: torch.Generator) -> Minibatch:
    """Return the sequences of one step, drawn without replacement.

    Args:
        data: The training data.
        options: Holds the batch sizes.
        order: Source of randomness, on the CPU.

    Returns:
        The indices; all sequences of a set that is smaller than its batch.
    """

    def some(total: int, count: int) -> Tensor:
        return torch.randperm(total, generator=order)[: min(count, total)]

    told, untold = near_counts(data, options)
    return Minibatch(
        some(len(data.target), options.target_batch),
        some(len(data.control.batch), options.control_batch),
        torch.cat(
            [some(data.n_neighborhood, told), data.n_neighborhood + some(data.n_unseen, untold)]
        ),
        some(len(data.text.batch), options.text_batch),
    )


def near_counts(data: TrainingData, options: TrainOptions) -> tuple[int, int]:
    """Return how many near statements of facts, and of untold heads, a step learns from.

    Untold heads are many and easily kept; without a share of their own they crowd out the facts.

    Args:
        data: The training data.
        options: Holds `neighborhood_batch` and `unseen_share`.

    Returns:
        The two numbers; where one kind is missing, the other takes its place.
    """
    share = options.unseen_share if data.n_neighborhood else 1.0
    untold = round(options.neighborhood_batch * share) if data.n_unseen else 0
    return options.neighborhood_batch - untold, untold


Terms = dict[str, Float[Tensor, ""]]
"""Terms by name, where the model is: to look at them is to wait for it."""
Group = dict[str, Batch]
"""Sequences of about one width, by the term that is read there."""


def read_metrics(terms: Terms, step: int) -> StepMetrics:
    """Return the values of a step's terms, in one question to the device.

    Args:
        terms: The terms, in float64.
        step: 1-based step.

    Returns:
        Their values by name.

    Raises:
        ValueError: If one is not finite.
    """
    figures = dict(zip(terms, torch.stack(list(terms.values())).tolist(), strict=True))
    if not all(math.isfinite(value) for value in figures.values()):
        raise ValueError(f"step {step}: a term of the objective is not finite: {figures}")
    return figures


class LossTerms:
    """The data terms of the objective.

    Args:
        data: The training data.
        options: Coefficients, and which term suppresses.
        head: The LM head.
    """

    def __init__(self, data: TrainingData, options: TrainOptions, head: nn.Linear) -> None:
        self.data, self.options, self.head = data, options, head
        self.target = data.target
        if options.suppression is not Suppression.UNIFORM:
            # The uniform term acts on every token of a tail; the others on the first, where the
            # answer is chosen.
            self.target = replace(data.target, target_mask=data.target.first_targets)
        self.kept = {"maintenance": data.control, "text": data.text}
        if data.neighborhood is not None:
            self.kept["near"] = data.neighborhood
        self.weights = {
            "suppression": options.suppression_weight,
            "maintenance": options.control_weight,
            "near": options.neighborhood_weight,
            "text": options.text_weight,
        }

    def positions(self, drawn: Minibatch) -> dict[str, int]:
        """Return over how many positions each term is a mean.

        Args:
            drawn: The sequences of a whole step.

        Returns:
            The numbers by term.
        """
        rows = drawn.by_term()
        found = {"suppression": int(self.target.target_mask[drawn.target].sum())}
        found |= {
            name: int(one.batch.target_mask[rows[name]].sum()) for name, one in self.kept.items()
        }
        return found

    def groups(self, part: Minibatch) -> list[Group]:
        """Return the statements of a piece, and its text if it has some.

        Args:
            part: The sequences of the piece.

        Returns:
            The batches, by the term that is read there.
        """
        rows = part.by_term()
        told = {"suppression": self.target[part.target]}
        told |= {name: one.batch[rows[name]] for name, one in self.kept.items() if name != "text"}
        read = {"text": self.data.text.batch[part.text]} if len(part.text) else {}
        return [group for group in (told, read) if group]

    def sums(self, part: Minibatch, states: Mapping[str, Tensor]) -> Terms:
        """Return the terms of some or all groups of a piece, summed over positions.

        Args:
            part: The sequences of the piece.
            states: Final states where they are read, by the same names.

        Returns:
            The sums, unweighted [nats].
        """
        rows = part.by_term()
        found = {
            name: self.kept[name].divergence(self.head, states[name], rows[name])
            for name in states
            if name in self.kept
        }
        if "suppression" in states:
            found |= self._forgotten(part.target, states["suppression"])
        return found

    def _forgotten(self, rows: Int[Tensor, " row"], states: Tensor) -> Terms:
        """Return the summed terms that act on the target's tails."""
        options, known = self.options, self.data.ignorance
        told = Batch(self.target.tokens[rows], self.target.target_mask[rows])
        kind, labels = options.suppression, to_device_of(told.labels[told.target_mask], states)
        standings = take_rows(known.object_zscores, rows)
        suppressed = objective.suppression(self.head, states, labels, kind, known, standings)
        return {"suppression": suppressed}


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
        processes: ProcessGroup | None = None,
    ) -> None:
        self.gates, self.data, self.options = gates, data, options
        packed = can_pack(upper, data.longest)
        lean = fused_activations(packed or upper)
        self.upper = activation_checkpointed(lean) if options.activation_checkpointing else lean
        small = _tokens(data, options) <= TOGETHER and gates.logits.device.type != "cpu"
        self.together = packed is not None and small
        self.processes = processes or ProcessGroup()
        self.processes.require_pieces(options.grad_accumulation)
        require_exact(options.matmul)
        self.head = cast_head(options.precision, upper.get_output_embeddings())
        self.terms = LossTerms(data, options, self.head)
        self.low = options.precision is Precision.BFLOAT16
        self.buffers = gates.masked_weights(torch.bfloat16 if self.low else None)
        masked = [gates.model.get_parameter(name) for name in self.buffers.weights]
        frozen = cast_frozen(options.precision, self.upper.base_model, masked)
        self.frozen = ParameterSwap(self.upper.base_model, frozen)
        one_pass = self.together and options.grad_accumulation == 1
        self.once = one_pass and self.buffers.per_weight_gates

    def __call__(
        self, sample: GateSample, drawn: Minibatch
    ) -> tuple[Terms, Float[Tensor, " unit"]]:
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
                del sample.value
                gradient = sample.ste_grad
                with self.buffers.accumulate_gate_grads(gradient, in_place=True):
                    sums = self._backward(drawn, positions)
            else:
                gradient = sample.value.zero_()
                sums = self._in_pieces(drawn, positions, gradient)
                gradient.mul_(sample.ste_grad)
        means = sums / to_device_of(torch.tensor(list(positions.values())), sums)
        terms = dict(zip(positions, means.unbind(), strict=True))
        if expressed is not None:
            terms["expression"] = expressed[0]
            gradient += expressed[1]
        return terms, gradient

    def _in_pieces(
        self, drawn: Minibatch, positions: dict[str, int], gradient: Float[Tensor, " unit"]
    ) -> Float[Tensor, " term"]:
        """Add the gradient of all pieces by the gates' values; return the sum of each term."""
        pieces, processes = self.options.grad_accumulation, self.processes
        sums = gradient.new_zeros(len(positions), dtype=torch.float64)
        for index in range(processes.rank, pieces, processes.count):
            part = gradient if pieces == 1 else torch.zeros_like(gradient)
            with self.buffers.accumulate_gate_grads(part):
                found = self._backward(drawn.microbatch(index, pieces), positions)
            processes.add(sums, found)
            if part is not gradient:
                processes.add(gradient, part)
        return sums

    def _backward(self, part: Minibatch, positions: dict[str, int]) -> Float[Tensor, " term"]:
        """Add the gradient of one piece; return the sum of each term over its positions."""
        found = dict.fromkeys(positions, torch.zeros((), device=self.gates.logits.device))
        weights, groups = self.terms.weights, self.terms.groups(part)
        with self._products():
            for several in [groups] if self.together else [[group] for group in groups]:
                states = objective.target_states(self.upper, *several)
                sums = self.terms.sums(part, states)
                shares = [weights[name] / positions[name] * sums[name] for name in sums]
                torch.stack(shares).sum().backward()
                found |= {name: total.detach() for name, total in sums.items()}
        return torch.stack([found[name] for name in positions]).double()

    @contextmanager
    def _installed(self) -> Iterator[None]:
        with self.frozen.applied(), self.buffers.applied(), matmul_backend(self.options.matmul):
            yield

    def _products(self) -> AbstractContextManager[object]:
        return matmul_autocast(self.options.precision, self.gates.logits.device)

    def exact_buffers(self) -> MaskedWeights:
        """Return buffers in the model's own precision; those of the steps if they are."""
        return self.gates.masked_weights() if self.low else self.buffers

    def _expression(self, sample: GateSample, rows: Int[Tensor, " row"]) -> tuple[Tensor, Tensor]:
        """Return the expression term of the subnetwork alone and its weighted gradient."""
        batch = self.data.target[rows]
        labels = to_device_of(batch.labels[batch.target_mask], sample.value)
        self.buffers.write(sample.value, keep=True)
        gradient = torch.zeros_like(sample.value)
        with self._installed(), self._products():
            states = objective.target_states(self.upper, {"expression": batch})
            total = objective.expression(self.head, states["expression"], labels)
            mean = total / len(labels)
            with self.buffers.accumulate_gate_grads(gradient):
                (self.options.expression_weight * mean).backward()
        return mean.detach().double(), gradient.mul_(sample.ste_grad)


def _tokens(data: TrainingData, options: TrainOptions) -> int:
    """Return how many tokens the sequences of a piece have at most, padding included."""
    counts = (
        options.target_batch,
        options.control_batch,
        options.neighborhood_batch,
        options.text_batch,
    )
    near = None if data.neighborhood is None else data.neighborhood.batch
    batches = data.target, data.control.batch, near, data.text.batch
    whole = sum(
        min(count, len(batch)) * batch.tokens.shape[1]
        for count, batch in zip(counts, batches, strict=True)
        if batch is not None
    )
    return -(-whole // options.grad_accumulation)
