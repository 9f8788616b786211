"""The gradient of one step: its minibatch, the forward pass, the loss terms, the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.discovery.distinction import Distinction
from knowsub.discovery.distributed import ProcessGroup, divide_blocks
from knowsub.discovery.ignorance import Ignorance
from knowsub.discovery.kernels import (
    can_pack,
    cast_frozen,
    cast_head,
    fused_activations,
    matmul_autocast,
    matmul_backend,
    require_exact,
    target_states,
)
from knowsub.discovery.losses import SUPPRESSION, means, negative_log_likelihood
from knowsub.discovery.options import (
    GateMemory,
    Padding,
    Precision,
    Suppression,
    TrainOptions,
)
from knowsub.discovery.pieces import RedrawnSample
from knowsub.discovery.teacher import Teacher
from knowsub.lm.batch import Batch, take_rows, to_device_of
from knowsub.lm.blocks import activation_checkpointed
from knowsub.lm.head import lm_head
from knowsub.lm.head_loss import chunked_head_loss
from knowsub.masks.ablation import ParameterSwap
from knowsub.masks.gates import Gates, GateSample
from knowsub.masks.weights import GateGradReceiver, MaskedWeights


@dataclass(frozen=True)
class TrainingData:
    """All that one mask is trained on."""

    target: Batch
    """Statements of the target facts."""
    control: Teacher
    """Statements of the control facts."""
    neighborhood: Teacher | None
    """Statements near the target's; None if there are none."""
    n_neighborhood: int
    """How many of them, which come first, state facts; the others are about unseen entities."""
    text: Teacher
    """Text blocks of the control LM."""
    ignorance: Ignorance
    """What the original model answers for unrelated subjects."""
    target_families: tuple[Int[Tensor, " row"], ...] = ()
    """Rows of the target statements of each template family that has at least two."""
    own_tokens: Int[Tensor, " token"] = field(default_factory=lambda: torch.zeros(0).long())
    """Tokens of the target's prompts that no prompt of a preserved fact has; none if embeddings are
    not masked."""

    @property
    def n_unseen(self) -> int:
        """Number of neighborhood statements about unseen entities."""
        total = 0 if self.neighborhood is None else len(self.neighborhood.batch)
        return total - self.n_neighborhood

    @property
    def teachers(self) -> dict[str, Teacher]:
        """What the terms that preserve the original model compare with, by term."""
        teachers = {"control": self.control, "text": self.text}
        if self.neighborhood is not None:
            teachers["neighborhood"] = self.neighborhood
        return teachers


Minibatch = dict[str, Int[Tensor, " _sequence"]]
"""Rows of the sequences of a step, by the term that reads them; on the CPU."""
LossTerms = dict[str, Float[Tensor, ""]]
"""Loss terms by name, on the model's device: reading one waits for it."""


def draw_minibatch(data: TrainingData, options: TrainOptions, order: torch.Generator) -> Minibatch:
    """Return the sequences of one step, drawn without replacement.

    Of a set that is smaller than its batch, all sequences are returned.
    """

    def draw(total: int, count: int) -> Tensor:
        return torch.randperm(total, generator=order)[: min(count, total)]

    n_facts, n_unseen = neighborhood_counts(data, options)
    rows = {  # in the order of the random draws
        "suppression": draw(len(data.target), options.target_batch),
        "control": draw(len(data.control.batch), options.control_batch),
        "neighborhood": torch.cat(
            [
                draw(data.n_neighborhood, n_facts),
                data.n_neighborhood + draw(data.n_unseen, n_unseen),
            ]
        ),
        "text": draw(len(data.text.batch), options.text_batch),
    }
    return rows | ({"expression": rows["suppression"]} if options.expression_weight > 0 else {})


def split_terms(minibatch: Minibatch) -> list[Minibatch]:
    """Return a minibatch cut by the terms that read it, those without a sequence left out."""
    return [{name: rows} for name, rows in minibatch.items() if len(rows)]


def neighborhood_counts(data: TrainingData, options: TrainOptions) -> tuple[int, int]:
    """Return how many neighborhood statements of facts, and of unseen entities, a step reads.

    Unseen entities are many and easily preserved; without a share of their own they would crowd
    out the facts. If one kind is missing, the other takes its place.
    """
    share = options.unseen_share if data.n_neighborhood else 1.0
    n_unseen = round(options.neighborhood_batch * share) if data.n_unseen else 0
    return options.neighborhood_batch - n_unseen, n_unseen


def microbatch(minibatch: Minibatch, index: int, count: int) -> Minibatch:
    """Return one of `count` equal parts of a minibatch."""
    return {name: rows[index::count] for name, rows in minibatch.items()}


LAUNCH_BOUND_TOKENS = 1 << 11
"""Tokens up to which a GPU's forward pass is bound by kernel launches rather than memory. Then
statements and text share a pass: half the launches, but the activations of both are held."""


class StepGradient:
    """The gradient of the weighted loss terms by the logits of the gates.

    Args:
        gates: The gates.
        upper: The upper blocks of the original model, all parameters frozen.
        data: The training data.
        options: Coefficients, batch sizes and precision.
        processes: The processes of the search; None for this process alone.

    Raises:
        ValueError: If this processor or this model does not compute as the options ask, or the
            processes cannot share the microbatches of a step.
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
        self.processes = processes or ProcessGroup()
        self.divided = gates.shards.count > 1
        if self.divided:
            self.processes.require_rows(min(options.target_batch, len(data.target)))
        else:
            self.processes.require_shareable(options.grad_accumulation)
        require_exact(options.matmul)

        self.target = data.target
        if options.suppression is not Suppression.UNIFORM:
            # The uniform term acts on every token of an object, the others on the first one, where
            # the answer is chosen; so they have one target position a statement.
            self.target = replace(data.target, target_mask=data.target.first_targets)
        self.teachers = data.teachers
        preserved = {name: teacher.batch for name, teacher in self.teachers.items()}
        self.batches = {"suppression": self.target} | preserved
        self.coefficients = {name: getattr(options, f"{name}_weight") for name in self.batches}
        self.distinction: Distinction | None = None
        if options.distinction_weight > 0:
            size = options.distinction_batch
            self.distinction = Distinction(upper, data.target, data.target_families, size)
        self._prepare_model(upper)

    def _prepare_model(self, upper: PreTrainedModel) -> None:
        """Choose kernels and precision of the pass, and where the remaining weights are written."""
        options, gates = self.options, self.gates
        longest = max(batch.tokens.shape[1] for batch in self.batches.values())
        varlen = None if options.embeddings else can_pack(upper, longest)
        fused = fused_activations(varlen or upper)
        self.upper = activation_checkpointed(fused) if options.activation_checkpointing else fused
        self.head = cast_head(options.precision, lm_head(upper))
        self.in_pieces = options.gate_memory is not GateMemory.FULL
        if self.in_pieces and varlen is None:
            raise ValueError(
                f"train.gate_memory: value {options.gate_memory.value!r} needs statements and text "
                "in one pass, which this model's attention cannot do; use full"
            )
        if self.divided and self.processes.count > 1:
            divide_blocks(upper, self.processes, gates.logits.device)
        # Divided weights stay as they are: autocast casts those of a block when they are together.
        rounded = Precision.FLOAT32 if self.divided else options.precision
        dtype = torch.bfloat16 if rounded is Precision.BFLOAT16 else None
        self.masked_weights = gates.masked_weights(dtype, in_pieces=self.in_pieces)
        masked = [gates.model.get_parameter(name) for name in self.masked_weights.weights]
        frozen = cast_frozen(rounded, self.upper.base_model, masked)
        self.frozen_weights = ParameterSwap(self.upper.base_model, frozen)

        launch_bound = gates.logits.device.type != "cpu" and self._tokens() <= LAUNCH_BOUND_TOKENS
        self.single_pass = varlen is not None and (launch_bound or self.in_pieces)
        unpadded = options.padding is Padding.NONE and not self.single_pass
        self.by_length = varlen is not None and unpadded
        # One backward pass can multiply into the straight-through gradient: no vector is needed.
        single_backward = self.single_pass and options.grad_accumulation == 1
        single_backward = single_backward and self.distinction is None
        self.in_place = single_backward and self.masked_weights.per_weight_gates

    def __call__(
        self, sample: GateSample, minibatch: Minibatch
    ) -> tuple[LossTerms, Float[Tensor, " gate"]]:
        """Return every loss term, unweighted, and the gradient of their weighted sum.

        Args:
            sample: One sample of the gates.
            minibatch: The sequences; terms that it does not have are left out.

        Returns:
            Mean of each term over its target positions [nats], and the gradient by the logits,
            which is written into the sample: it cannot be used again.
        """
        n_micro, processes = self.options.grad_accumulation, self.processes
        counts = self._counts(minibatch)
        expression = None
        if "expression" in minibatch:
            expression = self._expression(sample, minibatch["expression"])
        self.masked_weights.write(sample.value)  # weight x (1 - gate)
        if self.in_place:
            del sample.value  # frees its memory
            grad = sample.ste_grad
        else:
            grad = sample.value.zero_()
        sums = grad.new_zeros(len(counts), dtype=torch.float64)
        with self._applied():
            for index in range(processes.rank, n_micro if counts else 0, processes.count):
                micro_grad = grad if n_micro == 1 else torch.zeros_like(grad)
                with self.masked_weights.accumulate_gate_grads(micro_grad, in_place=self.in_place):
                    micro_sums = self._backward(microbatch(minibatch, index, n_micro), counts)
                processes.add(sums, micro_sums)
                if micro_grad is not grad:
                    processes.add(grad, micro_grad)
            distinction = self._distinction(grad, minibatch)
        if not self.in_place:
            grad.mul_(sample.ste_grad)  # d loss / d gate x d gate / d logit
        terms = means(sums, counts) | distinction
        if expression is not None:
            terms["expression"], expression_grad = expression
            grad += expression_grad
        return terms, grad

    def in_one_backward(
        self,
        sample: RedrawnSample,
        minibatch: Minibatch,
        check: Callable[[LossTerms], object],
        receive: GateGradReceiver,
    ) -> LossTerms:
        """Return every loss term as a call does, and hand on the gradient matrix by matrix.

        Args:
            sample: A sample of the gates.
            minibatch: The sequences.
            check: Sees the terms before the backward pass; what it raises prevents it.
            receive: Takes the gradient by this process's remaining weights, piece by piece.

        Returns:
            Mean of each term over its target positions [nats].
        """
        counts, processes = self._counts(minibatch), self.processes
        sums: list[Tensor] = []

        def check_all(losses: LossTerms) -> None:
            own = [losses.get(name, torch.zeros_like(sample.gates.logits[0])) for name in counts]
            sums.append(processes.gather(torch.stack(own).double()).sum(dim=0))
            check(dict(zip(counts, sums[0], strict=True)))  # the same in all processes

        self.masked_weights.write(sample)
        with self._applied(), self.masked_weights.gate_grads(receive):
            share = microbatch(minibatch, processes.rank, processes.count)
            self._backward(share, counts, check_all)
        return means(sums[0], counts)

    def _counts(self, minibatch: Minibatch) -> dict[str, int]:
        """Return the number of target positions of each term."""
        return {
            name: int(batch.target_mask[minibatch[name]].sum())
            for name, batch in self.batches.items()
            if name in minibatch
        }

    def _backward(
        self,
        rows: Minibatch,
        counts: dict[str, int],
        check: Callable[[LossTerms], object] = lambda terms: None,
    ) -> Float[Tensor, " term"]:
        """Run a microbatch forward and backward; return each term's sum over its positions [nats].

        Its gradient is that of the mean over the positions of the whole minibatch, in `counts`.
        """
        sums = dict.fromkeys(counts, torch.zeros((), device=self.gates.logits.device))
        with matmul_autocast(self.options.precision, self.gates.logits.device):
            for groups in self._passes(rows):
                losses: LossTerms = {}
                at_targets = target_states(self.upper, *groups, by_length=self.by_length)
                for name, states in at_targets.items():  # (target, hidden)
                    if name == "suppression":
                        term = self._suppression(rows[name], states)
                        losses[name] = chunked_head_loss(states, self.head, term)
                    else:
                        teacher = self.teachers[name]
                        losses[name] = teacher.divergence(self.head, states, rows[name])
                weighted = [self.coefficients[n] / counts[n] * loss for n, loss in losses.items()]
                check(losses)
                torch.stack(weighted).sum().backward()
                sums |= {name: loss.detach() for name, loss in losses.items()}
        return torch.stack([sums[name] for name in counts]).double()

    def _passes(self, rows: Minibatch) -> list[list[dict[str, Batch]]]:
        """Return the groups of batches that share a forward pass, for each pass."""
        batches = {name: batch[rows[name]] for name, batch in self.batches.items() if name in rows}
        text = {name: batches.pop(name) for name in ("text",) if name in batches}
        groups = [group for group in (batches, text) if any(map(len, group.values()))]
        return [groups] if self.single_pass else [[group] for group in groups]

    def _suppression(
        self, rows: Int[Tensor, " row"], states: Tensor
    ) -> Callable[[Tensor, slice], Tensor]:
        """Return the suppression term of some target statements, for `chunked_head_loss`."""
        loss, ignorance = SUPPRESSION[self.options.suppression], self.data.ignorance
        statements = Batch(self.target.tokens[rows], self.target.target_mask[rows])
        labels = to_device_of(statements.labels[statements.target_mask], states)
        zscores = take_rows(ignorance.object_zscores, rows)
        return lambda logits, chunk: loss(logits, labels[chunk], ignorance, zscores[chunk])

    def _distinction(self, grad: Float[Tensor, " gate"], minibatch: Minibatch) -> LossTerms:
        """Return the distinction term, if it is asked for, and add its weighted gradient."""
        if self.distinction is None or "distinction" not in minibatch:
            return {}
        with self.masked_weights.accumulate_gate_grads(grad):
            with matmul_autocast(self.options.precision, grad.device):
                term = self.distinction.loss(self.upper, minibatch["distinction"])
            (self.options.distinction_weight * term).backward()
        return {"distinction": term.detach().double()}

    def _expression(self, sample: GateSample, rows: Int[Tensor, " row"]) -> tuple[Tensor, Tensor]:
        """Return the expression term, NLL of the subnetwork alone, and its weighted gradient."""
        batch = self.data.target[rows]
        labels = to_device_of(batch.labels[batch.target_mask], sample.value)
        self.masked_weights.write(sample.value, keep=True)  # weight x gate
        grad = torch.zeros_like(sample.value)
        with self._applied(), matmul_autocast(self.options.precision, grad.device):
            states = target_states(self.upper, {"expression": batch})["expression"]
            total = chunked_head_loss(
                states,
                self.head,
                lambda logits, chunk: negative_log_likelihood(logits, labels[chunk]),
            )
            mean = total / len(labels)
            with self.masked_weights.accumulate_gate_grads(grad):
                (self.options.expression_weight * mean).backward()
        return mean.detach().double(), grad.mul_(sample.ste_grad)

    @contextmanager
    def _applied(self) -> Iterator[None]:
        """Let the model compute with the masked weights, and as the options ask."""
        frozen, masked = self.frozen_weights.applied(), self.masked_weights.applied()
        with frozen, masked, matmul_backend(self.options.matmul):
            yield

    def exact_weights(self) -> MaskedWeights:
        """Return masked weights in the model's own precision: the step's, unless rounded."""
        if self.masked_weights.exact:
            return self.masked_weights
        return self.gates.masked_weights(in_pieces=self.in_pieces)

    def _tokens(self) -> int:
        """Return the tokens of a microbatch at most, padding included."""
        options = self.options
        sizes = {
            "suppression": options.target_batch,
            "control": options.control_batch,
            "neighborhood": options.neighborhood_batch,
            "text": options.text_batch,
        }
        tokens = sum(
            min(sizes[name], len(batch)) * batch.tokens.shape[1]
            for name, batch in self.batches.items()
        )
        return -(-tokens // options.grad_accumulation)
