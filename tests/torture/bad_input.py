"""Facts, models and masks that are none: one line each, and everything stays as it was."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.pipeline.conftest import Repository
from tests.torture.ground import Ground, Outcome

TARGET = "building.n.01"
PREPARE, PRETRAIN = ("stages.prepare",), ("stages.pretrain",)
TEST, FINETUNE = ("stages.test", TARGET, "0"), ("stages.finetune", TARGET, "0")
HEADER = "subject\trelation\tobject\n"
CONTROL = HEADER + "".join(f"thing{n}\thypernym\tkind{n}\n" for n in range(9))
MASK = f"data/train/{TARGET}-0/mask.safetensors"
BESIDE = (".git", "mlflow", ".checkpoints", "__pycache__", "tmp")
"""Folders that a stage that fails may write to."""


@dataclass(frozen=True)
class Trial:
    """Something wrong, and the stage that meets it."""

    words: str
    """What is wrong."""
    arrange: Callable[[Path], dict[str, Any]]
    """Makes it so in a checkout; returns parameters to set."""
    command: tuple[str, ...]
    """Module and arguments."""
    expected: str
    """What the line says; empty if the stage is to work."""


def table(target: str, control: str = CONTROL, name: str = "mine") -> Callable[[Path], Any]:
    """Return what writes facts of a user."""

    def arrange(folder: Path) -> dict[str, Any]:
        source = folder / "data" / "raw" / "own"
        source.mkdir()
        (source / "mine.tsv").write_text(target, encoding="utf-8")
        (source / "control.tsv").write_text(control, encoding="utf-8")
        return {
            "targets": [name],
            "prepare": {
                "fact_source": "table",
                "source_folder": "data/raw/own",
                "extra_targets": [],
            },
        }

    return arrange


def model(spoil: Callable[[Path], object]) -> Callable[[Path], Any]:
    """Return what copies the model and spoils the copy."""

    def arrange(folder: Path) -> dict[str, Any]:
        shutil.copytree(folder / "data" / "pretrain" / "model", folder / "model")
        spoil(folder / "model")
        return {"pretrain": {"model": "model"}}

    return arrange


def weights(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Return what changes the weights of a model's folder."""

    def spoil(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return spoil


def fill(tensors: dict[str, Any]) -> None:
    """Make one weight not a number."""
    next(iter(tensors.values())).view(-1)[0] = float("nan")


def foreign(folder: Path) -> dict[str, Any]:
    """Make the mask one of another model."""
    from knowsub.masks.mask import Mask, load_mask, save_mask

    mask = load_mask(folder / MASK)
    save_mask(Mask(mask.bits, "f" * 64, mask.meta), folder / MASK)
    return {}


def cut(name: str) -> Callable[[Path], Any]:
    """Return what halves a file."""

    def arrange(folder: Path) -> dict[str, Any]:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        return {}

    return arrange


def pickled(folder: Path) -> None:
    """Leave a model with weights that would have to be unpickled."""
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


TWO = HEADER + "lark\thypernym\tbird\nelm\thypernym\ttree\n"
TRIALS = (
    Trial("an empty target KG", table(HEADER), PREPARE, "target 'mine' has no fact"),
    Trial("one fact only", table(HEADER + "a\thypernym\tb\n"), PREPARE, "has one fact"),
    Trial("the target is the control", table(TWO, TWO), PREPARE, "prepare.overlap"),
    Trial("no control fact", table(TWO, HEADER), PREPARE, "control"),
    Trial("facts that are no text", table("\0\0\0"), PREPARE, "mine.tsv:1"),
    Trial("a target named ../mine", table(TWO, name="../mine"), PREPARE, "'../mine'"),
    Trial("a target named ..", table(TWO, name=".."), PREPARE, "'..'"),
    Trial("an item named ../x", lambda _: {}, ("stages.train", "../x", "0"), "../x"),
    Trial(
        "a folder that is no model", lambda _: {"pretrain": {"model": "data"}}, PRETRAIN, "no model"
    ),
    Trial("missing weights", model(weights(lambda own: own.popitem())), PRETRAIN, "missing"),
    Trial("weights that are not finite", model(weights(fill)), PRETRAIN, "not finite"),
    Trial("weights cut off", model(cut("model.safetensors")), PRETRAIN, "could not be opened"),
    Trial("pickled weights", model(pickled), PRETRAIN, "pickled weights are refused"),
    Trial("tied weights", model(lambda _: None), PRETRAIN, ""),
    Trial("a mask of another model", foreign, TEST, "the mask belongs to model ffffffffffff"),
    Trial("the same, in finetuning", foreign, FINETUNE, "the mask belongs to model ffffffffffff"),
    Trial("a mask cut off", cut(MASK), TEST, "not a complete knowsub file"),
    Trial("statements cut off", cut(f"data/verbalize/{TARGET}.jsonl"), TEST, f"{TARGET}.jsonl:"),
)


def bad_input(ground: Ground) -> list[Outcome]:
    """Run a stage on something wrong, each in a checkout of its own."""
    outcome = Outcome("Facts, models and masks that are none: one line, all left as it was")
    for trial in TRIALS[:: max(1, round(1 / ground.amount))]:
        clone = ground.copy("bad")
        fault = refusal(clone, trial)
        outcome.check(not fault, f"{trial.words}: {fault}")
        shutil.rmtree(clone.folder)
    outcome.note = ", ".join(trial.words for trial in TRIALS)
    return [outcome]


def refusal(clone: Repository, trial: Trial) -> str:
    """Run a stage and return what is wrong with the way it ended."""
    changes = trial.arrange(clone.folder)
    if changes:
        clone.set(**changes)
    before = contents(clone.folder, trial.command[0])
    module, *arguments = trial.command
    done = clone.run(sys.executable, "-m", module, "-q", *arguments)
    lines = done.stderr.strip().splitlines()
    if not trial.expected:
        if done.returncode:
            return f"status {done.returncode}: {lines[-1:]}"
    elif done.returncode != 1 or len(lines) != 1 or trial.expected not in lines[0]:
        return f"status {done.returncode}, {len(lines)} lines: {lines[-1:]}"
    after = contents(clone.folder, trial.command[0])
    changed = sorted(name for name in before | after if before.get(name) != after.get(name))
    return f"changed {changed}" if changed else ""


def contents(folder: Path, module: str) -> dict[str, str]:
    """Return the digest of every file, those that the stage may write left out."""
    own = folder / "data" / module.partition(".")[2]
    found = {}
    for path in folder.rglob("*"):
        inside = set(path.relative_to(folder).parts) & set(BESIDE) or path.is_relative_to(own)
        if path.is_file() and not inside:
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
