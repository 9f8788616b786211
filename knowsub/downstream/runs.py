"""All finetuning runs of one mask, models x adaptations x repeats, and what their answers say.

The unit of every statistic is the question; a question's score is the share of the repeats that
answer it correctly. `filtered` is accuracy on the questions that the original model, finetuned the
same way in the same repeat, answers correctly: what is lost rather than never learned.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from knowsub.artifacts import atomic_write, json_text
from knowsub.downstream.encode import EncodedQuestions, with_features
from knowsub.downstream.finetune import VALIDATION, EvalPoint, Outcome, Schedule, finetune
from knowsub.downstream.model import FinetuneContext
from knowsub.downstream.options import Adaptation, FinetuneOptions, Readout
from knowsub.downstream.questions import Group, Question, Task
from knowsub.hypotheses import interval, paired_p
from knowsub.masks.mask import Mask, check_model, load_mask

ORIGINAL, REMAINING, RANDOM = "original", "remaining", "random"
"""The models: nothing removed, the critical subnetwork, as many random weights per matrix."""


@dataclass(frozen=True)
class FinetuneRun:
    """One finetuning run."""

    adaptation: Adaptation
    """What is trained beside the head."""
    model: str
    """Name of the model: `original`, `remaining` or `random`."""
    repeat: int
    """0-based number of the repeat; also the seed of head, LoRA matrices and order."""

    @property
    def name(self) -> str:
        """Name of the run: `lora-remaining-0`."""
        return f"{self.adaptation}-{self.model}-{self.repeat}"


@dataclass(frozen=True)
class Results:
    """The results of all runs of a mask."""

    outcomes: Mapping[FinetuneRun, Outcome]
    """Run -> its outcome."""
    unadapted: Mapping[str, Mapping[str, list[bool]]]
    """Model -> split -> which questions it answers by likelihood, before any finetuning."""


def load_masks(trained: Path, baseline: Path, model: str) -> dict[str, Mask | None]:
    """Return what is removed from each of the three models.

    Args:
        trained: Folder with the critical subnetwork's `mask.safetensors`.
        baseline: Folder with `random.safetensors`, as many weights per matrix at random.
        model: Fingerprint of the original model.

    Returns:
        Name of a model -> mask, None for the original.

    Raises:
        FileNotFoundError: If a mask is missing.
        ValueError: If a mask is corrupt or belongs to another model.
    """
    remaining = load_mask(trained / "mask.safetensors")
    random = load_mask(baseline / "random.safetensors")
    for mask in (remaining, random):
        check_model(mask, model)
    return {ORIGINAL: None, REMAINING: remaining, RANDOM: random}


def planned_runs(models: Mapping[str, object], options: FinetuneOptions) -> Iterator[FinetuneRun]:
    """Yield every run wanted, in order."""
    for adaptation in options.adaptations:
        for repeat in range(options.repeats):
            for name in models:
                yield FinetuneRun(adaptation, name, repeat)


def run_all(
    context: FinetuneContext,
    models: Mapping[str, object],
    task: Task,
    options: FinetuneOptions,
    folder: Path,
    on_points: Callable[[FinetuneRun, list[EvalPoint]], None],
) -> Results:
    """Do every run, or read it from the folder where an earlier call finished it.

    Args:
        context: The models.
        models: Their names, in order.
        task: The questions.
        options: Section `finetune` of the parameters.
        folder: Folder of checkpoints and finished runs, keyed by all that they depend on.
        on_points: Called with the new points of a run at every evaluation.

    Returns:
        The results.

    Raises:
        RuntimeError: If a weight that stays zero is not zero at an evaluation.
        ValueError: If a question does not fit the model, or a checkpoint is corrupt.
    """
    questions = evaluated_questions(task)
    encoded = [context.encode(task.train), *map(context.encode, questions.values())]
    train, *evaluated = context.cache(*encoded)
    splits = dict(zip(questions, evaluated, strict=True))
    unadapted_splits = splits
    if options.readout is not Readout.MATCH:
        again = context.cache(*(context.encode(own, Readout.MATCH) for own in questions.values()))
        unadapted_splits = dict(zip(questions, again, strict=True))
    outcomes = {}
    for run in planned_runs(models, options):
        finished = folder / f"{run.name}.json"
        try:
            outcome = Outcome.from_json(json.loads(finished.read_text(encoding="utf-8")))
            on_points(run, outcome.points)
        except FileNotFoundError:
            outcome = _finetune(context, run, train, splits, options, folder, on_points)
            atomic_write(finished, json_text(asdict(outcome), finished).encode())
        outcomes[run] = outcome
    return Results(outcomes, {name: context.answers(name, unadapted_splits) for name in models})


def _finetune(
    context: FinetuneContext,
    run: FinetuneRun,
    train: EncodedQuestions,
    splits: Mapping[str, EncodedQuestions],
    options: FinetuneOptions,
    folder: Path,
    on_points: Callable[[FinetuneRun, list[EvalPoint]], None],
) -> Outcome:
    model = context.choice_model(run.model, run.adaptation, run.repeat, train)
    if run.adaptation is Adaptation.HEAD:  # what the head reads never changes
        train = with_features(model.model, train, options.readout)
        splits = {
            name: with_features(model.model, own, options.readout) for name, own in splits.items()
        }
    model_lr = {Adaptation.LORA: options.lora_lr, Adaptation.FULL: options.full_lr}
    schedule = Schedule(
        steps=options.steps,
        batch=options.batch,
        head_lr=options.head_lr,
        model_lr=model_lr.get(run.adaptation, 0.0),
        evaluate_every=options.evaluate_every,
        patience=options.patience,
        seed=run.repeat,
    )
    checkpoint = folder / f"{run.name}.safetensors"
    return finetune(
        model, train, splits, schedule, lambda points: on_points(run, points), checkpoint
    )


def evaluated_questions(task: Task) -> dict[str, tuple[Question, ...]]:
    """Return split -> questions: `validation`, and the groups that the test asks about."""
    groups = {
        str(group): tuple(question for question in task.test if question.group is group)
        for group in Group
    }
    return {VALIDATION: task.validation} | {name: own for name, own in groups.items() if own}


OVERALL, UNADAPTED = "overall", "none"
"""Group of the whole test; adaptation before finetuning."""

Answers = Float[np.ndarray, "repeat question"]
"""1 where a repeat answers a question correctly, else 0."""
AnswerTable = dict[tuple[str, str], dict[str, Answers]]
"""(adaptation, model) -> group -> answers."""


def answer_table(results: Results) -> AnswerTable:
    """Return the answers of every adaptation and model; before finetuning there is one repeat."""
    repeats: dict[tuple[str, str], list[Mapping[str, list[bool]]]] = {
        (UNADAPTED, name): [answers] for name, answers in results.unadapted.items()
    }
    for run, outcome in results.outcomes.items():
        repeats.setdefault((run.adaptation, run.model), []).append(outcome.correct)
    table: AnswerTable = {}
    for key, listed in repeats.items():
        groups = {
            str(group): np.array([repeat[group] for repeat in listed], dtype=float)
            for group in Group
            if group in listed[0]
        }
        table[key] = groups | {OVERALL: np.concatenate(list(groups.values()), axis=1)}
    return table


def accuracy_rows(table: AnswerTable, resamples: int) -> list[dict[str, Any]]:
    """Return one row per adaptation, model and group: accuracy, its interval, and filtered."""
    rows = []
    for (adaptation, model), groups in table.items():
        for group, answers in groups.items():
            known = table[adaptation, ORIGINAL][group] == 1
            low, high = interval(answers.mean(axis=0), resamples)
            rows.append({
                "adaptation": adaptation, "model": model, "group": group,
                "questions": answers.shape[1], "repeats": answers.shape[0],
                "accuracy": float(answers.mean()), "low": low, "high": high,
                "filtered": float(answers[known].mean()) if known.any() else None,
            })  # fmt: skip
    return rows


def comparison_rows(table: AnswerTable, resamples: int) -> list[dict[str, Any]]:
    """Return one row per adaptation and group: critical against random removal, paired.

    `p_value`: see `hypotheses.paired_p` (two-sided, not corrected for the number of rows).
    """
    rows = []
    for adaptation in dict.fromkeys(adaptation for adaptation, _ in table):
        for group, answers in table[adaptation, REMAINING].items():
            remaining = answers.mean(axis=0)
            random = table[adaptation, RANDOM][group].mean(axis=0)
            low, high = interval(remaining - random, resamples)
            rows.append({
                "adaptation": adaptation, "group": group, "questions": len(remaining),
                "difference": float(np.mean(remaining - random)), "low": low, "high": high,
                "only_remaining": int((remaining > random).sum()),
                "only_random": int((random > remaining).sum()),
                "p_value": paired_p(remaining, random, resamples),
            })  # fmt: skip
    return rows


def summarize(results: Results, task: Task, options: FinetuneOptions) -> dict[str, Any]:
    """Return `metrics` and `intervals` by their names in `summary.json`, and what they stem from.

    That is `questions` (counts and chance), `scores`, `comparisons` and `runs`.
    """
    table = answer_table(results)
    scores = accuracy_rows(table, options.resamples)
    counts = {name: len(own) for name, own in evaluated_questions(task).items()}
    prefixes = {REMAINING: "", RANDOM: "random_", ORIGINAL: "original_"}
    named = {
        f"{prefixes[row['model']]}{row['adaptation']}_{row['group']}_accuracy": row
        for row in scores
        if row["adaptation"] != UNADAPTED and row["group"] != OVERALL
    }
    return {
        "metrics": {name: row["accuracy"] for name, row in named.items()},
        "intervals": {name: [row["low"], row["high"]] for name, row in named.items()},
        "questions": {"train": len(task.train), **counts, "chance": task.chance},
        "scores": scores,
        "comparisons": comparison_rows(table, options.resamples),
        "runs": [
            {"adaptation": run.adaptation, "model": run.model, "repeat": run.repeat,
             "steps": outcome.step, "best_step": outcome.best_step,
             "validation_accuracy": outcome.accuracy, "validation_loss": outcome.loss}
            for run, outcome in results.outcomes.items()
        ],
    }  # fmt: skip


def write_results(
    folder: Path, results: Results, task: Task, options: FinetuneOptions, item: Mapping[str, object]
) -> dict[str, float]:
    """Write the results of one mask.

    Args:
        folder: Folder to write into; made if there is none.
        results: The results.
        task: The questions.
        options: Section `finetune` of the parameters.
        item: What the mask is called: target and seed.

    Returns:
        The metrics. `results.json` holds them with everything of `summarize`; `curves.csv` has a
        row per run, evaluation and split.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summary = {**item, **summarize(results, task, options), "options": asdict(options)}
    text = json_text(summary, folder / "results.json", indent=1)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    with (folder / "curves.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["adaptation", "model", "seed", "step", "split", "accuracy", "loss"])
        for run, outcome in results.outcomes.items():
            for point in outcome.points:
                values = [f"{point.accuracy:.6g}", f"{point.loss:.6g}"]
                names = [str(run.adaptation), run.model, run.repeat, point.step, point.split]
                writer.writerow([*names, *values])
    metrics: dict[str, float] = summary["metrics"]
    return metrics
