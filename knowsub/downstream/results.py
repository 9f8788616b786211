"""What the answers say: accuracy per group with intervals, and critical against random removal.

The unit is the question; a question's score is the share of the repeats that answer it rightly.

- Intervals and the paired test of the remaining against the random-removed model: `paired`.
- `filtered` is accuracy on the questions that the original model, finetuned the same way in the
  same repeat, answers rightly: what is lost rather than never learned.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from knowsub.downstream.options import Adaptation, FinetuneOptions
from knowsub.downstream.questions import Group, Task
from knowsub.downstream.runs import ORIGINAL, RANDOM, REMAINING, Results, splits_of
from knowsub.hypotheses import interval, paired_p

OVERALL = "overall"
UNADAPTED = "none"

Right = Float[np.ndarray, "repeat question"]
"""1 where a repeat answers a question rightly, else 0."""
Table = dict[tuple[str, str], dict[str, Right]]
"""(adaptation, model) -> group -> answers."""


def tabulate(study: Results) -> Table:
    """Return (adaptation, model) -> group -> right answers; `overall` is the whole test.

    Before finetuning, adaptation `none`, there is one repeat.
    """
    listed: dict[tuple[str, str], list[Mapping[str, list[bool]]]] = {
        (UNADAPTED, name): [answers] for name, answers in study.unadapted.items()
    }
    for run, outcome in study.outcomes.items():
        listed.setdefault((run.adaptation, run.model), []).append(outcome.correct)
    return {key: _groups(repeats) for key, repeats in listed.items()}


def _groups(repeats: list[Mapping[str, list[bool]]]) -> dict[str, Right]:
    groups = {
        group: np.array([repeat[group] for repeat in repeats], dtype=float)
        for group in map(str, Group)
        if group in repeats[0]
    }
    return groups | {OVERALL: np.concatenate(list(groups.values()), axis=1)}


def scores(table: Table, resamples: int) -> list[dict[str, Any]]:
    """Return one row per adaptation, model and group: accuracy, its interval, and filtered."""
    rows = []
    for (adaptation, model), groups in table.items():
        for group, right in groups.items():
            known = table[adaptation, ORIGINAL][group] == 1
            low, high = interval(right.mean(axis=0), resamples)
            rows.append({
                "adaptation": adaptation, "model": model, "group": group,
                "questions": right.shape[1], "repeats": right.shape[0],
                "accuracy": float(right.mean()), "low": low, "high": high,
                "filtered": float(right[known].mean()) if known.any() else None,
            })  # fmt: skip
    return rows


def comparisons(table: Table, resamples: int) -> list[dict[str, Any]]:
    """Return one row per adaptation and group: critical against random removal, paired."""
    rows = []
    for adaptation in dict.fromkeys(adaptation for adaptation, _ in table):
        for group, right in table[adaptation, REMAINING].items():
            remaining = right.mean(axis=0)
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


def summarise(study: Results, task: Task, options: FinetuneOptions) -> dict[str, Any]:
    """Return everything that is published about one mask, as JSON can hold it.

    Args:
        study: The outcomes.
        task: The questions.
        options: What the user chose.

    Returns:
        `figures` and `intervals` under the names of the summary, `questions` (counts and chance),
        `scores`, `comparisons` and `runs`.
    """
    table = tabulate(study)
    listed = scores(table, options.resamples)
    counts = {name: len(own) for name, own in splits_of(task).items()}
    return {
        **_headline(listed),
        "questions": {"train": len(task.train), **counts, "chance": task.chance},
        "scores": listed,
        "comparisons": comparisons(table, options.resamples),
        "runs": [
            {"adaptation": run.adaptation, "model": run.model, "repeat": run.repeat,
             "steps": outcome.step, "best_step": outcome.best_step,
             "validation_accuracy": outcome.accuracy, "validation_loss": outcome.loss}
            for run, outcome in study.outcomes.items()
        ],
    }  # fmt: skip


def _headline(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    named = {REMAINING: "", RANDOM: "random_", ORIGINAL: "original_"}
    figures, intervals = {}, {}
    for row in rows:
        if row["adaptation"] not in set(Adaptation) or row["group"] == OVERALL:
            continue
        name = f"{named[row['model']]}{row['adaptation']}_{row['group']}_accuracy"
        figures[name] = row["accuracy"]
        intervals[name] = [row["low"], row["high"]]
    return {"figures": figures, "intervals": intervals}


def write_results(
    folder: Path, study: Results, task: Task, options: FinetuneOptions, item: Mapping[str, object]
) -> dict[str, float]:
    """Write what finetuning gave for one mask.

    Args:
        folder: Folder to write into; made if there is none.
        study: The outcomes.
        task: The questions.
        options: What the user chose.
        item: What the mask is called: target and seed.

    Returns:
        The figures. `results.json` holds them with everything of `summarise`; `curves.csv` has a
        row per run, evaluation and split.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summary = {**item, **summarise(study, task, options), "options": asdict(options)}
    text = json.dumps(summary, indent=1)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    with (folder / "curves.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["adaptation", "model", "seed", "step", "split", "accuracy", "loss"])
        for run, outcome in study.outcomes.items():
            for point in outcome.points:
                numbers = [f"{point.accuracy:.6g}", f"{point.loss:.6g}"]
                named = [str(run.adaptation), run.model, run.repeat, point.step, point.split]
                writer.writerow([*named, *numbers])
    figures: dict[str, float] = summary["figures"]
    return figures
