"""The main loop: search a model for the subnetwork that is critical for a target KG.

The loop knows no files and no tracker: validation, logging and checkpoints come in as values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.discovery.checkpoint import Checkpoints
from knowsub.discovery.data import TrainingData
from knowsub.discovery.drawn import draw
from knowsub.discovery.options import TrainOptions
from knowsub.discovery.processes import Processes
from knowsub.discovery.schedules import pressure, ramp, rate
from knowsub.discovery.selection import Candidate, better, excess, is_candidate, is_validated
from knowsub.discovery.step import StepGradient
from knowsub.discovery.terms import Figures, read
from knowsub.masks.gates import Sample, undecided
from knowsub.masks.model import Gates
from knowsub.masks.noise import Noise
from knowsub.masks.packing import pack, unpack


@dataclass(frozen=True)
class Found:
    """The result of a search."""

    bits: Bool[Tensor, " unit"]
    """Which gates of the chosen candidate are open, on the CPU."""
    chosen: Candidate
    """The candidate and its validation figures."""
    qualified: bool
    """Whether it met the limits of the selection rule."""
    curve: list[Figures]
    """Every step's figures, in order; `step` counts from 1."""


def find_subnetwork(
    search: Search,
    validate: Callable[[], Figures],
    log: Callable[[Figures], None] = lambda figures: None,
    checkpoints: Checkpoints | None = None,
) -> Found:
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
        figures = search.advance()
        if is_validated(search.step, options):
            figures |= search.consider(validate)
        search.curve.append(figures)
        log(figures)
        due = search.step % options.checkpoint_every == 0 and search.gradient.processes.first
        if checkpoints is not None and due:
            checkpoints.save(search.step, *search.snapshot())
    assert search.best is not None, "the last step is always validated"
    bits = unpack(search.best_bits, len(search.gates.logits))
    return Found(bits, search.best, excess(search.best, options) == 0, search.curve)


class Search:
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
        processes: Processes | None = None,
    ) -> None:
        self.gates, self.data, self.options = gates, data, options
        self.noise = Noise(seed, gates.logits.device)
        self.order = torch.Generator().manual_seed(seed)
        self.optimizer = torch.optim.Adam([gates.logits], lr=options.lr, fused=True)
        self.gradient = StepGradient(gates, upper, data, options, processes)
        self._spare: Sample | None = None
        self.step = 0
        self.best: Candidate | None = None
        self.best_bits = pack(torch.zeros(gates.logits.shape, dtype=torch.bool))
        self.curve: list[Figures] = []

    def advance(self) -> Figures:
        """Do one step.

        Returns:
            Every term by name [nats, unweighted] and the values of the schedules.

        Raises:
            ValueError: If a term is not finite; the logits are those of the step before.
        """
        options, gates, step = self.options, self.gates, self.step
        scale = ramp(step, options.steps, 1.0, options.noise_end, options.noise_begin)
        pressed = pressure(step, self.curve[-1]["density"] if self.curve else 1.0, options)
        sample = gates.sample(self.noise, options.temperature, scale, self._spare)
        seen = sample.open_share() if scale < 1 else None
        terms, gradient = self.gradient(sample, draw(self.data, options, self.order))
        expected = gates.press(gradient, pressed, options.temperature)
        terms["density"] = expected if seen is None else seen
        figures = read(terms, step + 1)
        gates.logits.grad = gradient
        self.optimizer.param_groups[0]["lr"] = rate(step, options)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._spare = None if self.gradient.once else sample
        self.step += 1
        return {"step": float(self.step)} | figures | {"noise": scale, "pressure": pressed}

    def consider(self, validate: Callable[[], Figures]) -> Figures:
        """Validate the deterministic mask of this step; keep it if the rule prefers it.

        Args:
            validate: As in `find_subnetwork`.

        Returns:
            The validation figures, each with the prefix `validation_`, and the share of gates
            that are `undecided`.
        """
        bits = self.gates.open_bits(self.options.max_density)
        buffers = self.gradient.exact_buffers()
        buffers.write(bits)
        with buffers.installed(), torch.no_grad():
            figures = validate()
        density = int(bits.count_nonzero()) / len(bits)
        candidate = Candidate(step=self.step, density=density, **figures)
        if is_candidate(self.step, self.options) and better(candidate, self.best, self.options):
            self.best, self.best_bits = candidate, pack(bits)
        shown = asdict(candidate)
        told = {f"validation_{name}": float(shown[name]) for name in shown if name != "step"}
        return told | {"undecided": undecided(self.gates.logits)}

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
