"""The configuration: `params.yaml`, with presets and overrides applied by Hydra, checked and typed.

    python -m knowsub.config --check [train.lr=0.1 ...]

is the first stage of the pipeline: it reports every mistake in the file, one line each. The
options of a stage are declared in the `options.py` of its room; this file joins them. There are no
defaults: a value that is not in `params.yaml` is not known to DVC either.
"""

from __future__ import annotations

import argparse
import difflib
import gzip
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from knowsub.analysis.options import AnalyzeOptions
from knowsub.baselines.options import BaselineOptions
from knowsub.discovery.options import TrainOptions
from knowsub.downstream.options import FinetuneOptions
from knowsub.embedded.options import PretrainOptions, RetainOptions
from knowsub.evaluation.options import TestOptions
from knowsub.inputs import link_inputs
from knowsub.kg.options import NOUNS, PrepareOptions, VerbalizeOptions
from knowsub.params_file import Source, as_text, fail, read_yaml, shorten
from knowsub.ranges import Distinct, Seed, Text, block_range, require
from knowsub.report.options import ReportOptions
from knowsub.runner import run_stage

PRESETS = Path("presets")
"""Folder of the presets, relative to the root of the repository."""


class Device(StrEnum):
    """Where tensors live."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Progress(StrEnum):
    """How progress is shown."""

    AUTO = "auto"
    BAR = "bar"
    LINES = "lines"
    NONE = "none"


@dataclass
class Track:
    """What the tracker stores beyond metrics and curves."""

    experiment: Text
    """Name of the MLflow experiment that runs are gathered under."""
    artifacts: bool
    """Whether pictures, the report and small files of the stages are stored with the runs."""
    model: bool
    """Whether the model without each subnetwork is stored with the experiment's run."""
    register: Annotated[str, Field(pattern=r"^([^/:\s][^/:]*)?$")]
    """Name that these models are registered under as versions; empty = not registered."""


@dataclass
class Machine:
    """The machine at hand; nothing here may change a result, so no stage is keyed on it."""

    device: Device
    """Where models are put; `auto` takes CUDA where there is one."""
    threads: Annotated[int, Field(ge=0, le=1024)]
    """Threads of a stage that runs once [threads]; 0 = one per core."""
    item_threads: Annotated[int, Field(ge=0, le=1024)]
    """Threads of a stage that runs per target and seed [threads]; 0 = one per core."""
    memory_gb: Annotated[float, Field(gt=0)]
    """Memory that a stage may plan with [GB]."""
    progress: Progress
    """`auto` shows bars on a terminal and a line every ten seconds elsewhere."""


@dataclass
class Params:
    """Everything in `params.yaml`, checked; a section is named as the stage that it belongs to."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    targets: Annotated[
        list[Annotated[str, Field(pattern=r"^[\w.-]+$")]], Field(min_length=1), Distinct
    ]
    """Names of the target KGs, one mask each per seed: synsets, or groups of a user's facts."""
    seeds: Annotated[list[Seed], Field(min_length=1), Distinct]
    """Seeds of the masks, one mask each per target."""
    prepare: PrepareOptions
    pretrain: PretrainOptions
    verbalize: VerbalizeOptions
    retain: RetainOptions
    train: TrainOptions
    baseline: BaselineOptions
    test: TestOptions
    finetune: FinetuneOptions
    analyze: AnalyzeOptions
    report: ReportOptions
    track: Track
    machine: Machine

    def __post_init__(self) -> None:
        """Refuse sections that do not fit together (ValueError naming the key)."""
        if self.pretrain.model == "embedded":
            self.train.block_range(self.pretrain.blocks)
            size, most = self.train.block_tokens, self.pretrain.context
            require(size <= most, "train.block_tokens", size, f"at most pretrain.context, {most}")
        if self.pretrain.nf4_blocks != "none":
            self._require_plain_weights()

    def _require_plain_weights(self) -> None:
        """Refuse to mask or train weights that `pretrain.nf4_blocks` keeps in 4 bits."""
        nf4, masked = self.pretrain.nf4_blocks, self.train.blocks
        if "_half" in nf4 or "_half" in masked:
            apart = "_half" in nf4 and "_half" in masked
        else:
            ranges = (set(block_range(text, 10**7, "")) for text in (nf4, masked))
            apart = set.isdisjoint(*ranges)
        allowed = f"lower_half beside train.blocks: upper_half, or numbers that it, {masked}, lacks"
        require(apart, "pretrain.nf4_blocks", nf4, allowed)
        test, tune, why = self.test, self.finetune, "with pretrain.nf4_blocks"
        require(not test.relearning, "test.relearning", True, f"false {why}, it trains all weights")
        methods = [each.value for each in test.relearning_methods]
        fits = not (test.relearning_curves and "full" in methods)
        require(fits, "test.relearning_methods", methods, f"[lora] {why}, full trains all weights")
        fits = tune.trainable_blocks == "upper" or "full" not in tune.adaptations
        require(fits, "finetune.trainable_blocks", "all", f"upper {why} and adaptation full")


def text_keys(section: Any = None, prefix: str = "") -> frozenset[str]:
    """Return the dotted keys whose values are text, or lists or maps of text."""
    found = set[str]()
    for name, kind in get_type_hints(section or Params).items():
        if is_dataclass(kind):
            found |= text_keys(kind, f"{prefix}{name}.")
        elif kind is str or (get_origin(kind) in (list, dict) and get_args(kind)[-1] is str):
            found.add(f"{prefix}{name}")
    return frozenset(found)


def read_params(text: str, name: str) -> Source:
    """Return the values of a text of `params.yaml`; see `params_file.read_yaml`."""
    return read_yaml(text, name, text_keys())


def compose_values(
    values: Mapping[str, Any], presets: Sequence[str] = (), overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Return values with presets, then overrides applied by Hydra (ValueError if it refuses one).

    Later presets go over earlier ones, each over its own `defaults`. Without values, what presets
    alone hold is returned. Keys that are unknown are added, for the schema to refuse.
    """
    from hydra import compose, initialize, initialize_config_dir  # slow to import
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    named = f"override {' '.join(overrides)}" if overrides else f"preset {' '.join(presets)}"
    given = [text if text[:1] in "+~" else f"++{text}" for text in overrides]
    if any(text.lstrip("+~").startswith("hydra") for text in given):
        raise ValueError(f"{named}: hydra is not a known key")
    node = {**values, "defaults": ["_self_", *presets]}
    ConfigStore.instance().store(name="params", node=node)
    folder = {"config_dir": str(PRESETS.resolve())} if presets else {"config_path": None}
    try:
        with (initialize_config_dir if presets else initialize)(**folder, version_base="1.3"):
            composed = OmegaConf.to_container(compose("params", given))
    except RecursionError:
        raise ValueError(f"{named}: a preset extends itself") from None
    except Exception as error:  # Hydra's, OmegaConf's, PyYAML's
        first = " ".join(str(error).strip().partition("\n\n")[0].split())
        raise ValueError(f"{named}: {shorten(first, 400)}") from error
    assert isinstance(composed, dict)
    return {str(key): value for key, value in composed.items()}


def load_params(
    overrides: Sequence[str] = (), path: str | Path = "params.yaml", presets: Sequence[str] = ()
) -> Params:
    """Return the checked values of `params.yaml`.

    Args:
        overrides: Changes in Hydra's grammar, such as `train.lr=0.1` or `seeds=[0,1]`.
        path: The file; relative to the working directory.
        presets: Names of presets, laid over the file before the overrides.

    Returns:
        Typed values, every one of them from the file, a preset or an override.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: One line per mistake with file, line, key, value and what is allowed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; run from the root of the repository")
    try:
        source = read_params(path.read_text(encoding="utf-8-sig"), path.name)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}: is not UTF-8 text: {error.reason}") from None
    if presets or overrides:
        values = as_text(compose_values(source.values, presets, overrides), text_keys())
        name = f"{path.name} with {shorten(' '.join([*presets, *overrides]))}"
        # a value may come from elsewhere: no lines
        places = {key: (0, comment) for key, (_, comment) in source.places.items()}
        source = Source(name, values, places)
    try:
        # from JSON, whose strict mode takes text for an enum but no text for a number
        params = TypeAdapter(Params).validate_json(json.dumps(source.values))
    except ValidationError as error:
        fail(_mistakes(error, source))
        raise
    except TypeError:
        raise ValueError(f"{source.name}: a key is not text") from None
    if params.prepare.fact_source == "wordnet" and NOUNS.is_file():
        extra = params.prepare.extra_targets
        fail(_unknown_synsets(source, {"targets": params.targets, "prepare.extra_targets": extra}))
    return params


REASONS = {
    "missing": "is missing",
    "list_type": "should be a list in [ ]",
    "dict_type": "should be a section of keys",
    "dataclass_type": "should be a section of keys",
    "string_type": "should be text (in quotes if need be)",
    "string_pattern_mismatch": "is not allowed",
    "bool_type": "should be true or false",
    "int_type": "should be a whole number",
    "float_type": "should be a number",
    "too_short": "should name at least one",
}
"""Type of pydantic's error -> what is wrong, where its own words are not a user's."""


def _mistakes(error: ValidationError, source: Source) -> list[str]:
    """Return one line per mistake; a misspelled key is not also a missing one."""
    found, misspelled = [], set[str]()
    for each in sorted(error.errors(include_url=False), key=lambda one: one["type"] == "missing"):
        path = [part for part in each["loc"] if isinstance(part, str)]
        key = ".".join(path)
        reason = REASONS.get(each["type"], each["msg"].removeprefix("Input "))
        if each["type"] == "unexpected_keyword_argument":
            reason, near = _unknown_key(path)
            misspelled.add(near)
        elif each["type"] == "value_error" and isinstance(each["input"], dict):
            # of a whole section, whose check names the key
            text = str(each["ctx"]["error"])
            prefix = f"{key}." if key and not text.startswith(f"{key}.") else ""
            key, _, reason = f"{prefix}{text}".partition(": ")
        elif each["type"] != "missing":
            shown = "null" if each["input"] is None else shorten(repr(each["input"]))
            reason = f"value {shown} {reason.removeprefix('Value error, ')}"
        if each["type"] != "missing" or key not in misspelled:
            found.append((source.places.get(key, (0, ""))[0], source.mistake(key, reason)))
    return [text for _, text in sorted(found, key=lambda one: one[0])]


def _unknown_key(keys: Sequence[str]) -> tuple[str, str]:
    """Return what to say of an unknown key, given below its sections, and the nearest known one."""
    *path, last = keys
    section: Any = Params
    for name in path:
        section = get_type_hints(section)[name]
    names = [each.name for each in fields(section)]
    near = [".".join([*path, name]) for name in difflib.get_close_matches(last, names, 1, 0.5)]
    known = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"
    return f"is not a known key; {known}", near[0] if near else ""


def _unknown_synsets(source: Source, named: Mapping[str, Sequence[str]]) -> list[str]:
    """Return one line per name that is no synset; reads the table as text, as parsing is slow."""
    found, pairs = [], [(key, name) for key, names in named.items() for name in names]
    with gzip.open(NOUNS, "rt", encoding="utf-8") as file:
        table = file.read()
    for key, name in (pair for pair in pairs if f"\n{pair[1]}\t" not in table):
        rows = (line.partition("\t")[0] for line in table.splitlines() if line[:1] == name[:1])
        near = difflib.get_close_matches(name, list(rows), 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        found.append(source.mistake(key, f"value {name!r} is not a noun synset{hint}"))
    return found


def stage_main(main: Callable[..., object]) -> None:
    """Run a stage from the command line with this configuration; see `runner.run_stage`.

    Args:
        main: The stage; its positional parameters are those of the command line.

    Raises:
        SystemExit: If the stage failed, with its status.
    """
    per_item = bool(inspect.signature(main).parameters)

    def machine() -> Machine:
        given = load_params().machine
        return replace(given, threads=given.item_threads) if per_item else given

    run_stage(main, machine)


def torch_device(machine: Machine) -> str:
    """Make torch deterministic, and return `cpu` or `cuda` (ValueError if there is no CUDA).

    `stage_main` has set the number of threads, before torch was imported.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    import torch

    if machine.device == Device.CUDA and not torch.cuda.is_available():
        raise ValueError("machine.device: value 'cuda' is not allowed: torch sees no CUDA device")
    cuda = machine.device != Device.CPU and torch.cuda.is_available()
    # only warned, attention on CUDA would take kernels whose gradients differ from run to run
    torch.use_deterministic_algorithms(True, warn_only=not cuda)
    return "cuda" if cuda else "cpu"


INPUTS = (
    "prepare.source_folder", "prepare.text", "prepare.other_text", "pretrain.model",
    "verbalize.templates", "finetune.question_folder", "finetune.target_questions",
)  # fmt: skip
"""Parameters that may name a file or a folder; `dvc.yaml` lists a link for each."""


def _value(params: Params, key: str) -> str:
    section, _, name = key.partition(".")
    return str(getattr(getattr(params, section), name))


def _check() -> None:
    parser = argparse.ArgumentParser(prog="python -m knowsub.config", description=__doc__)
    parser.add_argument("--check", action="store_true", help="the default, and all there is")
    parser.add_argument("--mark", type=Path, help="file to write where all is well")
    parser.add_argument("--inputs", type=Path, help="folder to link files of parameters into")
    parser.add_argument("overrides", nargs="*", help="changes such as train.lr=0.1")
    given = parser.parse_args()
    try:
        params = load_params(given.overrides)
        if given.inputs:
            link_inputs(given.inputs, {key: _value(params, key) for key in INPUTS})
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
    if given.mark:
        given.mark.parent.mkdir(parents=True, exist_ok=True)
        given.mark.write_text("params.yaml is valid\n", encoding="utf-8")


if __name__ == "__main__":
    _check()
