"""The main loop: search a model for the subnetwork that is critical for a target KG.

A step samples the gates, runs forward and backward, adds the sparsity gradient and updates the
logits; every few steps the deterministic mask is validated. No file and no tracker is known here:
validation, logging and checkpoints come in as values.

Selection rule, by which one candidate becomes the result:

1. The deterministic mask, trimmed to `max_density`, is validated every `evaluate_every` steps and
   at the last one. If the noise stays constant and `candidates` is all, all of these are
   candidates; else only the last: while noise falls, masks are not settled and do more harm for
   what they forget.
2. A candidate qualifies if its PPL ratios on validation control facts and text are within
   `max_control_ratio` and `max_text_ratio`.
3. Among those that qualify, the highest validation NLL of the target wins; the later one of ties.
4. If none qualifies, the one that exceeds the limits least wins, and the result says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.discovery.adam import GateAdam
from knowsub.discovery.checkpoint import Checkpoints, Tensors
from knowsub.discovery.distributed import ProcessGroup
from knowsub.discovery.options import Candidates, GateMemory, Samples, TrainOptions
from knowsub.discovery.pieces import PieceStep, RedrawnSample, make_moments
from knowsub.discovery.step import (
    LossTerms,
    Minibatch,
    StepGradient,
    TrainingData,
    draw_minibatch,
    split_terms,
)
from knowsub.lm.schedule import warmup_stable_decay
from knowsub.masks.gates import ALL, Gates, GateSample, UniformNoise, probability_shares
from knowsub.masks.mask import pack_bits, unpack_bits

StepMetrics = dict[str, float]
"""Metrics of one step or one validation, by name."""


@dataclass(frozen=True)
class Candidate:
    """One validated mask of a search."""

    step: int
    """Steps done when it was validated."""
    density: float
    """Share of open gates, after trimming [fraction]."""
    target_nll: float
    """Mean NLL of the target's objects on validation prompts [nats per token]."""
    control_ratio: float
    """PPL of the remaining model over the original's on validation control facts."""
    text_ratio: float
    """PPL of the remaining model over the original's on validation text."""


@dataclass(frozen=True)
class SearchResult:
    """The result of a search."""

    bits: Bool[Tensor, " gate"]
    """Which gates of the chosen candidate are open, on the CPU."""
    chosen: Candidate
    """The candidate and its validation metrics."""
    qualified: bool
    """Whether it meets the limits of the selection rule."""
    curve: list[StepMetrics]
    """Metrics of every step, in order; `step` counts from 1."""


def find_subnetwork(
    trainer: MaskTrainer,
    validate: Callable[[], StepMetrics],
    log: Callable[[StepMetrics], None] = lambda metrics: None,
    checkpoints: Checkpoints | None = None,
) -> SearchResult:
    """Search for a critical subnetwork, from the newest checkpoint if there is one.

    An interrupted search that is run again ends with the same bits as one that was not.

    Args:
        trainer: The search, at its first step.
        validate: Returns `target_nll` [nats], `control_ratio` and `text_ratio` of the model with
            the weights that it has at the time of the call.
        log: Receives the metrics of every step.
        checkpoints: Where to save and resume; None for nowhere.

    Returns:
        The chosen subnetwork.

    Raises:
        ValueError: If a loss term is not finite.
    """
    options = trainer.options
    shards = trainer.gates.shards
    if checkpoints is not None and (saved := checkpoints.load(shards)) is not None:
        trainer.restore(*saved)
    while trainer.step < options.steps:
        metrics = trainer.train_step()
        if is_validated(trainer.step, options):
            metrics |= trainer.validate_candidate(validate)
        trainer.curve.append(metrics)
        log(metrics)
        writes = trainer.gradient.processes.is_main or shards.count > 1
        if checkpoints is not None and writes and trainer.step % options.checkpoint_every == 0:
            checkpoints.save(trainer.step, *trainer.snapshot(), shards)
    assert trainer.best is not None, "the last step is always validated"
    count = len(trainer.gates.logits)
    bits = torch.cat([unpack_bits(each, count) for each in shards.gather(trainer.best_bits)])
    qualified = constraint_violation(trainer.best, options) == 0
    return SearchResult(bits, trainer.best, qualified, trainer.curve)


class MaskTrainer:
    """The state of a search and its steps.

    Args:
        gates: Gates with initial logits; they are trained in place.
        upper: The upper blocks of the original model, all parameters frozen.
        data: The training data.
        options: How to search.
        seed: Seed of the noise and of the order of the data.
        processes: The processes of the search; None for this process alone.
        added: Gates that are open for good once the noise begins to fall; none if None.
    """

    def __init__(
        self,
        gates: Gates,
        upper: PreTrainedModel,
        data: TrainingData,
        options: TrainOptions,
        seed: int,
        processes: ProcessGroup | None = None,
        added: Int[Tensor, " gate"] | None = None,
    ) -> None:
        self.gates, self.data, self.options = gates, data, options
        self.added = added
        self.noise = UniformNoise(seed, gates.logits.device)
        self.order = torch.Generator().manual_seed(seed)
        self.gradient = StepGradient(gates, upper, data, options, processes)
        weights = self.gradient.masked_weights
        self.adam = GateAdam(gates.logits, make_moments(options.gate_memory, gates, weights))
        dtype = str(upper.dtype).removeprefix("torch.")
        self._number_format = f"{dtype} (pretrain.dtype; train.precision: {options.precision})"
        self.step = 0
        self.best: Candidate | None = None
        self.best_bits = pack_bits(torch.zeros(gates.logits.shape, dtype=torch.bool))
        self.curve: list[StepMetrics] = []
        self._used_sample: GateSample | None = None  # its memory is used for the next sample

    def train_step(self) -> StepMetrics:
        """Do one step.

        Returns:
            Every loss term by name [nats, unweighted] and the values of the schedules.

        Raises:
            ValueError: If a term is not finite; the logits are then those before the step.
        """
        options, step = self.options, self.step
        noise_scale = ramp(step, options.steps, 1.0, options.noise_final, options.noise_decay_start)
        density = self.curve[-1]["density"] if self.curve else 1.0
        sparsity_weight = sparsity_coefficient(step, density, options)
        if self.added is not None and step >= int(options.noise_decay_start * (options.steps - 1)):
            self.gates.logits[self.added] = torch.inf

        minibatch = draw_minibatch(self.data, options, self.order)
        if self.gradient.distinction is not None:
            minibatch["distinction"] = self.gradient.distinction.draw(self.order)
        whole = options.gate_memory is GateMemory.FULL
        take = self._step_as_a_whole if whole else self._step_in_pieces
        metrics = take(minibatch, noise_scale, sparsity_weight)
        self.adam.advance()
        self.step += 1
        schedules = {"noise_scale": noise_scale, "sparsity_weight": sparsity_weight}
        return {"step": float(self.step)} | metrics | schedules

    def _step_as_a_whole(
        self, minibatch: Minibatch, noise_scale: float, sparsity_weight: float
    ) -> StepMetrics:
        """Change all logits at once; return the loss terms."""
        options, gates = self.options, self.gates

        # Forward pass, loss terms, backward pass: the gradient by the logits, one value per gate.
        terms, grad, sampled_density = self._sampled_gradient(minibatch, noise_scale)

        # The sparsity term depends on the logits alone, so its gradient is in closed form.
        expected_density = gates.add_sparsity_grad(grad, sparsity_weight, options.temperature)
        terms["density"] = sampled_density if noise_scale < 1 else expected_density
        metrics = self._finite(terms)
        self.adam.update(ALL, grad, learning_rate(self.step, options), self.noise)
        return metrics

    def _step_in_pieces(
        self, minibatch: Minibatch, noise_scale: float, sparsity_weight: float
    ) -> StepMetrics:
        """Change the logits of each piece when its gradient arrives; return the loss terms."""
        options, gates = self.options, self.gates
        noise, lr = self.noise.at(self.step), learning_rate(self.step, options)
        sample = RedrawnSample(gates, noise, options.temperature, noise_scale)
        step = PieceStep(gates, self.adam, sample, sparsity_weight, lr)
        terms = self.gradient.in_one_backward(sample, minibatch, self._finite, step)
        terms["density"] = step.density(noise_scale)
        return self._finite(terms)

    def _finite(self, terms: LossTerms) -> StepMetrics:
        return finite_metrics(terms, self.step + 1, self._number_format)

    def _sampled_gradient(
        self, minibatch: Minibatch, noise_scale: float
    ) -> tuple[LossTerms, Float[Tensor, " gate"], Float[Tensor, ""]]:
        """Return the terms and the gradient under a sample of the gates, or one for every term.

        The third value is the share of open gates in the (first) sample.
        """
        options, gates = self.options, self.gates
        per_term = options.samples is Samples.PER_TERM
        total: Tensor | None = None
        density, terms = torch.zeros(()), LossTerms()
        for part in split_terms(minibatch) if per_term else [minibatch]:
            sample = gates.sample(self.noise, options.temperature, noise_scale, self._used_sample)
            # The density is counted before the gradient overwrites the sample.
            if not terms and noise_scale < 1:
                density = sample.open_fraction()
            part_terms, grad = self.gradient(sample, part)
            terms |= part_terms
            total = grad if total is None else total.add_(grad)
            # the gradient lies in the sample's memory, which waits for the sum
            self._used_sample = None if self.gradient.in_place or per_term else sample
        assert total is not None, "every minibatch has target statements"
        return terms, total, density

    def validate_candidate(self, validate: Callable[[], StepMetrics]) -> StepMetrics:
        """Validate the deterministic mask of this step; keep it if the selection rule prefers it.

        Returns the metrics with the prefix `validation_`, and the gates' `probability_shares`.
        """
        bits = self.gates.hard_mask(self.options.max_density)
        weights = self.gradient.exact_weights()
        weights.write(bits)
        with weights.applied(), torch.no_grad():
            metrics = validate()
        shards = self.gates.shards
        values = torch.tensor(list(metrics.values()), dtype=torch.float64)
        # all processes go by the figures of the first
        metrics = dict(zip(metrics, shards.gather(values)[0].tolist(), strict=True))
        density = int(shards.total(torch.tensor(bits.n_open))) / self.gates.total
        candidate = Candidate(step=self.step, density=density, **metrics)
        if is_candidate(self.step, self.options) and is_better(candidate, self.best, self.options):
            self.best, self.best_bits = candidate, bits.packed
        validation = {
            f"validation_{name}": float(value)
            for name, value in asdict(candidate).items()
            if name != "step"
        }
        return validation | probability_shares(self.gates.logits, shards)

    def snapshot(self) -> tuple[Tensors, dict[str, object], dict[int, Tensors]]:
        """Return all that `restore` needs: tensors, the rest as JSON, tensors of the parts.

        Gates that are not divided are among the first.
        """
        tensors = {
            "adam_step": self.adam.steps,
            "noise": self.noise.get_state(),
            "order": self.order.get_state(),
        }
        parts, bits = {}, unpack_bits(self.best_bits, len(self.gates.logits))
        for index, part in self._parts().items():
            parts[index] = {**self._part(part), "best_bits": pack_bits(bits[part])}
        if self.gates.shards.count == 1:
            tensors |= parts.pop(0)
        best = None if self.best is None else asdict(self.best)
        return tensors, {"best": best, "curve": self.curve}, parts

    def restore(
        self, step: int, tensors: Tensors, state: dict[str, object], parts: dict[int, Tensors]
    ) -> None:
        """Continue from a snapshot that was taken after `step` steps."""
        self.step, bits = step, []
        self.adam.steps.copy_(tensors["adam_step"])
        for index, part in self._parts().items():
            saved = parts.get(index, tensors)
            for name, own in self._part(part).items():
                own.copy_(saved[name])
            bits.append(unpack_bits(saved["best_bits"], part.stop - part.start))
        self.noise.set_state(tensors["noise"])
        self.order.set_state(tensors["order"])
        self.best_bits = pack_bits(torch.cat(bits))
        self.best = None if state["best"] is None else Candidate(**state["best"])  # type: ignore[arg-type]
        self.curve = list(state["curve"])  # type: ignore[call-overload]

    def _parts(self) -> dict[int, slice]:
        """Return the gates of each part that this process has."""
        return self.gates.shards.parts(len(self.gates.logits))

    def _part(self, part: slice) -> Tensors:
        """Return the logits of some gates and their moments, sharing memory."""
        return {"logits": self.gates.logits[part], **self.adam.moments.state(part)}


def finite_metrics(terms: LossTerms, step: int, number_format: str) -> StepMetrics:
    """Return the values of float64 terms, in a single read; not finite ones are a ValueError."""
    metrics = dict(zip(terms, torch.stack(list(terms.values())).tolist(), strict=True))
    if wrong := [name for name, value in metrics.items() if not math.isfinite(value)]:
        raise ValueError(
            f"step {step}: {', '.join(wrong)} of the objective is not finite in {number_format}: "
            f"{metrics}"
        )
    return metrics


def ramp(step: int, steps: int, start: float, end: float, begin: float) -> float:
    """Return a value that stays at `start` for a share `begin` of the steps, then moves to `end`.

    It moves linearly and arrives at the last step; `step` is 0-based.

    Source: Bayazit et al. 2024, section 4: lambda is constant for half of the steps, then linear.
    """
    first = begin * steps
    last = steps - 1
    if step <= first or last <= first:
        return start if step <= first else end
    return start + (end - start) * (step - first) / (last - first)


MAX_FACTOR = 5.0
"""Largest factor by which the sparsity coefficient is raised to reach the target density."""
EXPONENT = 30
"""Power of density / target that the factor goes with: it is 2 at 2.3 % above the target."""


def sparsity_coefficient(step: int, density: float, options: TrainOptions) -> float:
    """Return the coefficient of the sparsity term: a ramp, steered to `target_density` if given.

    The ramp is multiplied by min(5, (density / target)^30), so that searches end near that density
    although target KGs differ in how many weights they need. `density` is the share of open gates
    at the step before [fraction].
    """
    start, end = options.sparsity_weight_start, options.sparsity_weight_end
    coefficient = ramp(step, options.steps, start, end, options.sparsity_ramp_start)
    target = options.target_density
    return coefficient * min(MAX_FACTOR, (density / target) ** EXPONENT) if target else coefficient


def learning_rate(step: int, options: TrainOptions) -> float:
    """Return the learning rate of a 0-based step [log-odds per step]: warmup, stable, decay."""
    return options.lr * warmup_stable_decay(step, options.steps, options.warmup, options.decay)


def is_validated(step: int, options: TrainOptions) -> bool:
    """Return whether the mask after `step` steps is validated (rule 1)."""
    return step == options.steps or step % options.evaluate_every == 0


def is_candidate(step: int, options: TrainOptions) -> bool:
    """Return whether the validated mask after `step` steps is a candidate (rule 1)."""
    every = options.noise_final == 1 and options.candidates is Candidates.ALL
    return step == options.steps or every


def constraint_violation(candidate: Candidate, options: TrainOptions) -> float:
    """Return the summed log-ratios above the limits [nats]; 0 if a candidate qualifies (rule 2)."""
    excess = 0.0
    for value, limit in (
        (candidate.control_ratio, options.max_control_ratio),
        (candidate.text_ratio, options.max_text_ratio),
    ):
        if not math.isfinite(value):
            return math.inf
        excess += max(0.0, math.log(value / limit))
    return excess


def is_better(candidate: Candidate, best: Candidate | None, options: TrainOptions) -> bool:
    """Return whether a later candidate replaces the best one so far (rules 3 and 4)."""
    if best is None:
        return True
    new, old = constraint_violation(candidate, options), constraint_violation(best, options)
    if new > 0 or old > 0:
        return new <= old
    return candidate.target_nll >= best.target_nll
