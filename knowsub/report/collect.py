"""Reads what the stages have written into one value per mask."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
"""One JSON object, or one row of a table."""

Analysis = Mapping[str, Row]
"""Name of a file of `data/analyze/` without its ending -> its content."""


@dataclass(frozen=True)
class MaskResult:
    """Everything known about one mask."""

    target: str
    """The target KG that it removes."""
    seed: int
    """Seed of its training."""
    metrics: Mapping[str, float]
    """Metric -> value, downstream metrics included."""
    intervals: Mapping[str, Sequence[float]]
    """Metric -> its confidence interval (low, high)."""
    methods: Mapping[str, Mapping[str, float]]
    """Baseline method -> metrics of its mask of the same size."""
    method_tests: Mapping[str, Mapping[str, float]]
    """Baseline method -> `pvalue` and `effect` [nats per token] of the trained mask's lead."""
    cross: Mapping[str, float]
    """Other target -> dNLL of its facts after removing this mask [nats per token]."""
    relearning: Mapping[str, Mapping[str, Sequence[Row]]]
    """Condition -> model -> points of its relearning curve."""
    changes: Mapping[str, Mapping[str, Sequence[float]]]
    """Set -> `rank` and `log_probability` -> mean, least and greatest change over statements."""
    skipped: Mapping[str, str]
    """Metric or group -> why it is missing."""
    facts: Sequence[Row]
    """Rows of `facts.jsonl`."""
    curve: Sequence[Mapping[str, float]]
    """Rows of the training curve; a row lacks what was not measured at its step."""
    training: Row
    """Content of `training.json`."""
    finetune: Row
    """Content of `results.json` of downstream finetuning."""
    finetune_curve: Sequence[Row]
    """Rows of the finetuning curves, every cell as text."""

    @property
    def name(self) -> str:
        """Name such as `building.n.01-0`."""
        return f"{self.target}-{self.seed}"


def read_mask_results(data: Path, targets: Sequence[str], seeds: Sequence[int]) -> list[MaskResult]:
    """Return every mask that the parameters ask for; what an earlier run left is not counted.

    Args:
        data: The folder of the stages' outputs.
        targets: Target synsets.
        seeds: Seeds of training.

    Returns:
        Target by target and seed by seed.

    Raises:
        FileNotFoundError: If a mask has not been tested.
        ValueError: If a file cannot be parsed.
    """
    return [_read_mask_result(data, target, seed) for target in targets for seed in seeds]


def _read_mask_result(data: Path, target: str, seed: int) -> MaskResult:
    name = f"{target}-{seed}"
    path = data / "test" / name / "figures.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; run the stage test for {name} first")
    test = read_json(path)
    finetune = read_json(data / "finetune" / name / "results.json")
    return MaskResult(
        target=target,
        seed=seed,
        metrics={**finetune.get("metrics", {}), **test.get("figures", {})},
        intervals={**finetune.get("intervals", {}), **test.get("intervals", {})},
        methods=test.get("methods", {}),
        method_tests=test.get("against_methods", {}),
        cross=test.get("cross", {}),
        relearning=test.get("relearning", {}),
        changes=test.get("changes", {}),
        skipped=test.get("skipped", {}),
        facts=_read_json_lines(data / "test" / name / "facts.jsonl"),
        curve=[_numbers(row) for row in _read_csv(data / "train" / name / "curve.csv")],
        training=read_json(data / "train" / name / "training.json"),
        finetune=finetune,
        finetune_curve=_read_csv(data / "finetune" / name / "curves.csv"),
    )


def read_summaries(folder: Path) -> dict[str, list[Row]]:
    """Return run -> metrics of its masks, from copies of other runs' `summary.json`.

    Each copy is named as its run; {} if there is no such folder. ValueError if a file is invalid.
    """
    return {path.stem: _read_masks(path) for path in sorted(folder.glob("*.json"))}


def _read_masks(path: Path) -> list[Row]:
    masks = read_json(path).get("masks")
    if not isinstance(masks, list) or not masks:
        raise ValueError(f"{path}: no list of masks; a copy of a run's summary.json is expected")
    return masks


def read_analysis(data: Path) -> dict[str, Row]:
    """Return what the stage `analyze` wrote; {} for every file that is missing."""
    names = ("structure", "overlap", "ablations")
    return {name: read_json(data / f"analyze/{name}.json") for name in names}


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object, {} if there is no such file; ValueError if the file holds none."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a JSON object is expected, not a {type(content).__name__}")
    return content


def _read_json_lines(path: Path) -> list[Row]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def _read_csv(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _numbers(row: Mapping[str, str]) -> dict[str, float]:
    """Return the numeric cells of a row; empty and other cells are left out."""
    numbers = {}
    for key, cell in row.items():
        try:
            numbers[key] = float(cell)
        except (TypeError, ValueError):
            continue
    return numbers
