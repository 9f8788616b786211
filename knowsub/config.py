"""The configuration: `params.yaml` with overrides, checked and typed; no other file knows Hydra.

    python -m knowsub.config --check [train.lr=0.1 ...]

is the first step of the pipeline: whatever is wrong with the file stops there, in one line.
"""

from __future__ import annotations

import argparse
import difflib
import gzip
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowsub.conform import conform, unknown_key
from knowsub.kg import wordnet
from knowsub.runner import run_stage
from knowsub.schema import Device, Machine, Params, Track
from knowsub.yaml_file import Source, read_yaml

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

__all__ = [
    "Device",
    "Machine",
    "Params",
    "Track",
    "load_params",
    "stage_main",
    "torch_device",
]


def load_params(overrides: Sequence[str] = (), path: str | Path = "params.yaml") -> Params:
    """Return the checked values of `params.yaml`.

    Args:
        overrides: Changes in Hydra's grammar, such as `train.lr=0.1` or `seeds=[0,1]`.
        path: The file; relative to the working directory.

    Returns:
        Typed values, every one of them from the file or an override.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: At the first mistake; one line with file, key, value and what is allowed.
    """
    tree, source = read_yaml(Path(path))
    if overrides:
        tree = _composed(tree, overrides)
        source = Source(f"{source.name} with {' '.join(overrides)}", source.comments)
    params = conform(tree, Params, source)
    if params.prepare.fact_source == "wordnet" and wordnet.NOUNS.is_file():
        _require_synsets("targets", params.targets, source)
        _require_synsets("prepare.extra_targets", params.prepare.extra_targets, source)
    return params


def _composed(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return the tree with overrides applied by Hydra, imported late because it is slow to."""
    from hydra import compose, initialize
    from hydra.core.config_store import ConfigStore
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    try:
        for override in OverridesParser.create().parse_overrides(list(overrides)):
            _require_known(override, tree)
        ConfigStore.instance().store(name="params", node=tree)
        with initialize(version_base="1.3", config_path=None):
            composed = OmegaConf.to_container(compose("params", list(overrides)))
    except HydraException as error:
        raise ValueError(f"override {' '.join(overrides)}: {str(error).splitlines()[0]}") from error
    assert isinstance(composed, dict)
    return {str(key): value for key, value in composed.items()}


def _require_known(override: Override, tree: dict[str, Any]) -> None:
    """Refuse what is no key of the file; `+section.map.name` adds a name to a mapping."""
    key = override.key_or_group
    here: Any = tree
    for name in key.split("."):
        names = here if isinstance(here, dict) else ()
        if name not in names and not override.is_add():
            raise ValueError(f"override {override.input_line}: {unknown_key(key, names)}")
        here = names[name] if isinstance(names, dict) and name in names else {}


def _require_synsets(key: str, names: Iterable[str], source: Source) -> None:
    """Refuse names that the table does not hold, reading it as text: parsing it takes seconds."""
    with gzip.open(wordnet.NOUNS, "rt", encoding="utf-8") as table:
        text = table.read()
    for name in names:
        if f"\n{name}\t" not in text:
            rows = (line.partition("\t")[0] for line in text.splitlines())
            near = difflib.get_close_matches(name, [row for row in rows if row[:1] == name[:1]], 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{source.name}: {key}: value {name!r} is not a noun synset{hint}")


def stage_main(main: Callable[..., object]) -> None:
    """Run a stage from the command line with this configuration; see `stage.run_stage`.

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
    """Make torch compute the same figures every time on this machine, and say where.

    How many threads it takes is in the environment before it is imported; see `stage_main`.

    Args:
        machine: The section of that name.

    Returns:
        `cpu` or `cuda`.

    Raises:
        ValueError: If CUDA is asked for and there is none.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    import torch

    if machine.device == Device.CUDA and not torch.cuda.is_available():
        raise ValueError("machine.device: value 'cuda' is not allowed: torch sees no CUDA device")
    found = machine.device != Device.CPU and torch.cuda.is_available()
    # only warned, attention on CUDA would take kernels whose gradients differ from run to run
    torch.use_deterministic_algorithms(True, warn_only=not found)
    return "cuda" if found else "cpu"


def _check(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m knowsub.config", description=__doc__)
    parser.add_argument("--check", action="store_true", help="the default, and all there is")
    parser.add_argument("--mark", type=Path, help="file to write where all is well")
    parser.add_argument("overrides", nargs="*", help="changes such as train.lr=0.1")
    given = parser.parse_args(arguments)
    load_params(given.overrides)
    if given.mark is not None:
        given.mark.parent.mkdir(parents=True, exist_ok=True)
        given.mark.write_text("params.yaml is valid\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        _check(sys.argv[1:])
    except (ValueError, FileNotFoundError) as mistake:
        sys.stderr.write(f"{mistake}\n")
        sys.exit(1)
