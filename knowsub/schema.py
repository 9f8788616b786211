"""What `params.yaml` holds, as types.

The options of a stage are declared beside the code that reads them; this file only joins them.
There are no defaults here: what is not in `params.yaml` is not known to DVC either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from knowsub.analysis.options import AnalyzeOptions
from knowsub.baselines.options import BaselineOptions
from knowsub.discovery.options import TrainOptions
from knowsub.downstream.options import FinetuneOptions
from knowsub.embedded.options import PretrainOptions
from knowsub.evaluation.options import TestOptions
from knowsub.kg.options import PrepareOptions, VerbalizeOptions
from knowsub.report.options import ReportOptions


class Device(StrEnum):
    """Where tensors live."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Progress(StrEnum):
    """How long work shows that it goes on."""

    AUTO = "auto"
    BAR = "bar"
    LINES = "lines"
    NONE = "none"


SEEDS = 2**32
"""Seeds are below this, as some generators ask for."""


@dataclass
class Track:
    """What the tracker is told beyond figures and curves."""

    experiment: str
    """Name of the MLflow experiment that runs are gathered under."""
    artifacts: bool
    """Whether pictures, the report and small files of the stages are stored with the runs."""
    model: bool
    """Whether the model without each subnetwork is stored with the experiment's run."""
    register: str
    """Name that these models are registered under as versions; empty = not registered."""

    def __post_init__(self) -> None:
        """Refuse names that MLflow does not take (ValueError naming key and value)."""
        if not self.experiment.strip():
            raise ValueError(f"experiment: value {self.experiment!r} is not a name")
        if self.register and (not self.register.strip() or set(self.register) & set("/:")):
            raise ValueError(
                f"register: value {self.register!r} is not a name; leave out / and :, or all of it"
            )


@dataclass
class Machine:
    """The machine at hand; nothing here may change a result, so no stage is keyed on it."""

    device: Device
    """Where models are put; `auto` takes CUDA where there is one."""
    threads: int
    """Threads of a stage that runs once [threads]; 0 = one per core."""
    item_threads: int
    """Threads of a stage that runs per target and seed [threads]; 0 = one per core."""
    memory_gb: float
    """Memory that a stage may plan with [GB]."""
    progress: Progress
    """`auto` shows bars on a terminal and a line every ten seconds elsewhere."""

    def __post_init__(self) -> None:
        """Refuse impossible machines (ValueError naming key, value and what is allowed)."""
        for key in ("threads", "item_threads"):
            value = getattr(self, key)
            if not 0 <= value <= 1024:
                raise ValueError(f"{key}: value {value} is not allowed; use 0 to 1024")
        if self.memory_gb <= 0:
            raise ValueError(f"memory_gb: value {self.memory_gb} is not allowed; use more than 0")


@dataclass
class Params:
    """Everything in `params.yaml`, checked."""

    targets: list[str]
    """Names of the target KGs, one mask each per seed: synsets, or groups of a user's facts."""
    seeds: list[int]
    """Seeds of the masks, one mask each per target."""
    prepare: PrepareOptions
    """Facts and text."""
    pretrain: PretrainOptions
    """The model."""
    verbalize: VerbalizeOptions
    """Statements."""
    train: TrainOptions
    """The search for a critical subnetwork."""
    baseline: BaselineOptions
    """Masks by other methods."""
    test: TestOptions
    """The evidence."""
    finetune: FinetuneOptions
    """The downstream task."""
    analyze: AnalyzeOptions
    """Structure and overlap of the masks."""
    report: ReportOptions
    """The page."""
    track: Track
    """The tracker."""
    machine: Machine
    """The machine at hand."""

    def __post_init__(self) -> None:
        """Refuse what only the sections together show to be impossible (ValueError)."""
        _require_distinct("targets", self.targets)
        _require_distinct("seeds", self.seeds)
        for target in self.targets:
            if not target or not all(letter.isalnum() or letter in "._-" for letter in target):
                raise ValueError(
                    f"targets: value {target!r} cannot name a folder; use letters, digits, . _ -"
                )
        for seed in self.seeds:
            _require_seed("seeds", seed)
        for section in ("baseline", "test", "analyze"):
            _require_seed(f"{section}.seed", getattr(self, section).seed)
        if self.pretrain.model == "embedded":
            self.train.block_range(self.pretrain.blocks)
            _require_fits("train.block_tokens", self.train.block_tokens, self.pretrain.context)


def _require_seed(key: str, seed: int) -> None:
    if not 0 <= seed < SEEDS:
        raise ValueError(f"{key}: value {seed} is not allowed; use an integer 0..{SEEDS - 1}")


def _require_distinct(key: str, values: Sequence[object]) -> None:
    if not values:
        raise ValueError(f"{key}: value [] is not allowed; name at least one")
    if len(set(values)) < len(values):
        raise ValueError(f"{key}: value {values} names one twice")


def _require_fits(key: str, tokens: int, context: int) -> None:
    if tokens > context:
        raise ValueError(f"{key}: value {tokens} is above pretrain.context, {context}")
