"""Every run of one mask: models x adaptations x repeats, on the same questions, with resume."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from knowsub.downstream.bench import Bench, Run, splits_of
from knowsub.downstream.encode import Encoded
from knowsub.downstream.finetune import finetune
from knowsub.downstream.learner import Outcome, Point, Schedule
from knowsub.downstream.options import Adaptation, FinetuneOptions, Readout
from knowsub.downstream.questions import Task
from knowsub.downstream.scoring import all_features
from knowsub.masks.io import check_model, load_mask
from knowsub.masks.mask import Mask
from knowsub.sealed import write_whole

ORIGINAL, REMAINING, RANDOM = "original", "remaining", "random"

Answers = Mapping[str, Mapping[str, list[bool]]]


@dataclass(frozen=True)
class Study:
    """What all runs of a mask gave."""

    outcomes: Mapping[Run, Outcome]
    """Run -> what it gave."""
    unadapted: Answers
    """Model -> split -> which questions it answers by likelihood, before any finetuning."""


def runs(models: Mapping[str, object], options: FinetuneOptions) -> Iterator[Run]:
    """Yield every run wanted, in order."""
    for adaptation in options.adaptations:
        for repeat in range(options.repeats):
            for name in models:
                yield Run(adaptation, name, repeat)


def conduct(
    bench: Bench,
    models: Mapping[str, object],
    task: Task,
    options: FinetuneOptions,
    folder: Path,
    on_run: Callable[[Run, list[Point]], None],
) -> Study:
    """Do every run, or take it from the folder where an earlier call finished it.

    Args:
        bench: The models.
        models: Their names, in order.
        task: The questions.
        options: What the user chose.
        folder: Folder of checkpoints and finished runs, keyed by `fingerprint`.
        on_run: Called with the new points of a run at every evaluation.

    Returns:
        The outcomes.

    Raises:
        RuntimeError: If a held weight is not zero at an evaluation.
        ValueError: If a question does not fit the model, or a checkpoint is corrupt.
    """
    named = splits_of(task)
    encoded = {name: bench.encode(own) for name, own in named.items()}
    train, *judged = bench.cache(bench.encode(task.train), *encoded.values())
    splits = dict(zip(named, judged, strict=True))
    plain = splits
    if options.readout is not Readout.MATCH:
        again = bench.cache(*(bench.encode(own, Readout.MATCH) for own in named.values()))
        plain = dict(zip(named, again, strict=True))
    outcomes = {}
    for run in runs(models, options):
        done = folder / f"{run.name}.json"
        try:
            outcome = Outcome.restored(json.loads(done.read_text(encoding="utf-8")))
            on_run(run, outcome.points)
        except FileNotFoundError:
            outcome = _one(bench, run, train, splits, options, folder, on_run)
            write_whole(done, json.dumps(asdict(outcome)).encode())
        outcomes[run] = outcome
    return Study(outcomes, {name: bench.answers(name, plain) for name in models})


def _one(
    bench: Bench,
    run: Run,
    train: Encoded,
    splits: Mapping[str, Encoded],
    options: FinetuneOptions,
    folder: Path,
    on_run: Callable[[Run, list[Point]], None],
) -> Outcome:
    learner = bench.learner(run, train)
    if run.adaptation is Adaptation.HEAD:
        train = all_features(learner.model, train, options.readout)
        splits = {
            name: all_features(learner.model, own, options.readout) for name, own in splits.items()
        }
    rates = {Adaptation.LORA: options.lora_lr, Adaptation.FULL: options.full_lr}
    schedule = Schedule(
        steps=options.steps,
        batch=options.batch,
        head_lr=options.head_lr,
        model_lr=rates.get(run.adaptation, 0.0),
        evaluate_every=options.evaluate_every,
        patience=options.patience,
        seed=run.repeat,
    )
    checkpoint = folder / f"{run.name}.safetensors"
    return finetune(
        learner, train, splits, schedule, lambda points: on_run(run, points), checkpoint
    )


def load_masks(trained: Path, baseline: Path, model: str) -> dict[str, Mask | None]:
    """Return what is removed from each of the three models.

    Args:
        trained: Folder with the critical subnetwork's `mask.safetensors`.
        baseline: Folder with `random.safetensors`, as much removed per site at random.
        model: Fingerprint of the original model.

    Returns:
        Name of a model -> mask, None for the original.

    Raises:
        FileNotFoundError: If a mask is missing.
        ValueError: If a mask is corrupt or belongs to another model.
    """
    found = load_mask(trained / "mask.safetensors")
    chance = load_mask(baseline / "random.safetensors")
    for mask in (found, chance):
        check_model(mask, model)
    return {ORIGINAL: None, REMAINING: found, RANDOM: chance}


def fingerprint(
    model: str, masks: Mapping[str, Mask | None], task: Task, options: FinetuneOptions
) -> str:
    """Return a hash of everything that the outcomes depend on, this room's code included.

    Args:
        model: Fingerprint of the original model.
        masks: Name of a model -> mask removed from it.
        task: The questions.
        options: What the user chose.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps(asdict(options), sort_keys=True).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    digest.update(f"{model}{task!r}".encode())
    for name, mask in masks.items():
        digest.update(name.encode())
        for site, bits in sorted(mask.bits.items()) if mask else ():
            digest.update(site.encode() + bits.numpy().tobytes())
    return digest.hexdigest()[:16]
