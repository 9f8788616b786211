"""The main loop: search a model for the subnetwork that is critical for a target KG.

The loop knows no files and no tracker: validation, logging and checkpoints come in as values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.discovery.checkpoint import Checkpoints
from knowsub.discovery.distributed import ProcessGroup
from knowsub.discovery.options import TrainOptions
from knowsub.discovery.selection import (
    Candidate,
    SearchResult,
    StepMetrics,
    constraint_violation,
    is_better,
    is_candidate,
    is_validated,
)
from knowsub.discovery.step import (
    StepGradient,
    TrainingData,
    draw_minibatch,
    read_metrics,
)
from knowsub.lm.schedule import warmup_stable_decay
from knowsub.masks.gates import Gates, GateSample, UniformNoise, undecided_fraction
from knowsub.masks.mask import pack_bits, unpack_bits

RISE = 5.0
"""Factor by which steering raises the pressure at most."""
STEEPNESS = 30
"""Power that steering goes with: at 2.3 % above the aim the pressure is doubled."""


def ramp(step: int, steps: int, start: float, end: float, begin: float) -> float:
    """Return a value that stays at `start`, then moves linearly and arrives at `end`.

    Args:
        step: 0-based step.
        steps: Number of steps in all.
        start: Value up to `begin`.
        end: Value at the last step.
        begin: Share of the steps after which the value moves, 0 to 1 [fraction].

    Returns:
        The value at this step.

    Source:
        Bayazit et al. 2024, section 4: lambda is constant for half of the steps, then linear.
    """
    first = begin * steps
    last = steps - 1
    if step <= first or last <= first:
        return start if step <= first else end
    return start + (end - start) * (step - first) / (last - first)


def sparsity_coefficient(step: int, density: float, options: TrainOptions) -> float:
    """Return the coefficient of the sparsity term: a ramp, steered to a density if one is aimed at.

    It goes with a power of density over `options.target_density`, `STEEPNESS`, up to `RISE` times, so
    that searches end near that density although targets differ in how many weights they take.

    Args:
        step: 0-based step.
        density: Share of open gates at the step before: as expected, or as drawn once the noise
            falls [fraction].
        options: The ramp, and the density aimed at.

    Returns:
        The coefficient.
    """
    ends = options.sparsity_weight_start, options.sparsity_weight_end
    plain = ramp(step, options.steps, *ends, options.sparsity_ramp_start)
    aim = options.target_density
    return plain * min(RISE, (density / aim) ** STEEPNESS) if aim else plain


def learning_rate(step: int, options: TrainOptions) -> float:
    """Return the learning rate: up, level, and down to zero, so that the last masks settle.

    Args:
        step: 0-based step.
        options: The peak, and the shares of the steps over which it rises and falls.

    Returns:
        The learning rate [log-odds per step].
    """
    return options.lr * warmup_stable_decay(step, options.steps, options.warmup, options.decay)


def find_subnetwork(
    search: MaskTrainer,
    validate: Callable[[], StepMetrics],
    log: Callable[[StepMetrics], None] = lambda figures: None,
    checkpoints: Checkpoints | None = None,
) -> SearchResult:
    """Search for a critical subnetwork, from the newest checkpoint if there is one.

    An interrupted search that is run again ends with the same bits as one that was not.

    Args:
        search: The search, freshly made.
        validate: Returns `target_nll` [nats], `control_ratio` and `text_ratio` of the model as it
            is installed at the time of the call.
        log: Receives the figures of every step.
        checkpoints: Where to save and resume; None for nowhere.

    Returns:
        The chosen subnetwork.

    Raises:
        ValueError: If a term of the objective is not finite.
    """
    options = search.options
    if checkpoints is not None and (found := checkpoints.load()) is not None:
        search.restore(*found)
    while search.step < options.steps:
        figures = search.train_step()
        if is_validated(search.step, options):
            figures |= search.validate_candidate(validate)
        search.curve.append(figures)
        log(figures)
        due = search.step % options.checkpoint_every == 0 and search.gradient.processes.first
        if checkpoints is not None and due:
            checkpoints.save(search.step, *search.snapshot())
    assert search.best is not None, "the last step is always validated"
    bits = unpack_bits(search.best_bits, len(search.gates.logits))
    return SearchResult(
        bits, search.best, constraint_violation(search.best, options) == 0, search.curve
    )


class MaskTrainer:
    """The state of a search and its steps.

    Args:
        gates: Gates with fresh logits; they are trained in place.
        upper: The upper blocks of the original model, all parameters frozen.
        data: The training data.
        options: How to search.
        seed: Seed of the noise and of the order of the data.
        processes: Who computes; None for this process alone.
    """

    def __init__(
        self,
        gates: Gates,
        upper: PreTrainedModel,
        data: TrainingData,
        options: TrainOptions,
        seed: int,
        processes: ProcessGroup | None = None,
    ) -> None:
        self.gates, self.data, self.options = gates, data, options
        self.noise = UniformNoise(seed, gates.logits.device)
        self.order = torch.Generator().manual_seed(seed)
        self.optimizer = torch.optim.Adam([gates.logits], lr=options.lr, fused=True)
        self.gradient = StepGradient(gates, upper, data, options, processes)
        self._spare: GateSample | None = None
        self.step = 0
        self.best: Candidate | None = None
        self.best_bits = pack_bits(torch.zeros(gates.logits.shape, dtype=torch.bool))
        self.curve: list[StepMetrics] = []

    def train_step(self) -> StepMetrics:
        """Do one step.

        Returns:
            Every term by name [nats, unweighted] and the values of the schedules.

        Raises:
            ValueError: If a term is not finite; the logits are those of the step before.
        """
        options, gates, step = self.options, self.gates, self.step
        scale = ramp(step, options.steps, 1.0, options.noise_final, options.noise_decay_start)
        pressed = sparsity_coefficient(
            step, self.curve[-1]["density"] if self.curve else 1.0, options
        )
        sample = gates.sample(self.noise, options.temperature, scale, self._spare)
        seen = sample.open_fraction() if scale < 1 else None
        terms, gradient = self.gradient(sample, draw_minibatch(self.data, options, self.order))
        expected = gates.add_sparsity_grad(gradient, pressed, options.temperature)
        terms["density"] = expected if seen is None else seen
        figures = read_metrics(terms, step + 1)
        gates.logits.grad = gradient
        self.optimizer.param_groups[0]["lr"] = learning_rate(step, options)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._spare = None if self.gradient.once else sample
        self.step += 1
        return {"step": float(self.step)} | figures | {"noise": scale, "pressure": pressed}

    def validate_candidate(self, validate: Callable[[], StepMetrics]) -> StepMetrics:
        """Validate the deterministic mask of this step; keep it if the rule prefers it.

        Args:
            validate: As in `find_subnetwork`.

        Returns:
            The validation figures, each with the prefix `validation_`, and the share of gates
            that are `undecided`.
        """
        bits = self.gates.hard_mask(self.options.max_density)
        buffers = self.gradient.exact_buffers()
        buffers.write(bits)
        with buffers.applied(), torch.no_grad():
            figures = validate()
        density = int(bits.count_nonzero()) / len(bits)
        candidate = Candidate(step=self.step, density=density, **figures)
        if is_candidate(self.step, self.options) and is_better(candidate, self.best, self.options):
            self.best, self.best_bits = candidate, pack_bits(bits)
        shown = asdict(candidate)
        told = {f"validation_{name}": float(shown[name]) for name in shown if name != "step"}
        return told | {"undecided": undecided_fraction(self.gates.logits)}

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, object]]:
        """Return all that `restore` needs: tensors, and the rest as JSON."""
        moments = self.optimizer.state[self.gates.logits]
        tensors = {
            "logits": self.gates.logits,
            "first": moments["exp_avg"],
            "second": moments["exp_avg_sq"],
            "count": moments["step"],
            "noise": self.noise.get_state(),
            "order": self.order.get_state(),
            "best": self.best_bits,
        }
        best = None if self.best is None else asdict(self.best)
        return tensors, {"best": best, "curve": self.curve}

    def restore(self, step: int, tensors: dict[str, Tensor], state: dict[str, object]) -> None:
        """Continue where a snapshot was taken.

        Args:
            step: Steps done.
            tensors: As `snapshot` returned them.
            state: As `snapshot` returned it.
        """
        self.step, device = step, self.gates.logits.device
        self.gates.logits.copy_(tensors["logits"])
        self.optimizer.state[self.gates.logits] = {
            "exp_avg": tensors["first"].to(device),
            "exp_avg_sq": tensors["second"].to(device),
            "step": tensors["count"].to(device),
        }
        self.noise.set_state(tensors["noise"])
        self.order.set_state(tensors["order"])
        self.best_bits = tensors["best"]
        self.best = None if state["best"] is None else Candidate(**state["best"])  # type: ignore[arg-type]
        self.curve = list(state["curve"])  # type: ignore[call-overload]
