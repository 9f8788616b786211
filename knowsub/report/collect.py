"""What the stages have written, read into values."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
"""One JSON object."""

Analysis = Mapping[str, Row]
"""Name of a file of `data/analyze/` without its ending -> its content."""


@dataclass(frozen=True)
class MaskResult:
    """Everything known of one mask."""

    target: str
    """What it removes."""
    seed: int
    """Seed of its training."""
    metrics: Mapping[str, float]
    """Figures of the evidence by name, downstream ones included."""
    intervals: Mapping[str, Sequence[float]]
    """Figure -> its confidence interval (low, high)."""
    methods: Mapping[str, Mapping[str, float]]
    """Other method -> its figures at the same size."""
    against: Mapping[str, Mapping[str, float]]
    """Other method -> `pvalue` and `effect` [nats per token] of the trained mask's lead over it."""
    cross: Mapping[str, float]
    """Other target -> what removing this mask costs its facts [nats per token]."""
    skipped: Mapping[str, str]
    """Figure or group -> why it is missing."""
    facts: Sequence[Row]
    """Rows of `facts.jsonl`."""
    curve: Sequence[Mapping[str, float]]
    """Rows of the training curve; a row lacks what was not measured at its step."""
    training: Row
    """`training.json`."""
    finetune: Row
    """`results.json` of downstream finetuning."""
    finetune_curve: Sequence[Row]
    """Rows of the finetuning curves, as text where not a number."""

    @property
    def name(self) -> str:
        """Name such as `building.n.01-0`."""
        return f"{self.target}-{self.seed}"


def read_mask_results(data: Path, targets: Sequence[str], seeds: Sequence[int]) -> list[MaskResult]:
    """Return every mask that the parameters ask for.

    Folders are never searched: what an earlier run left behind is not counted.

    Args:
        data: The folder of the stages' outputs.
        targets: Target synsets.
        seeds: Seeds of training.

    Returns:
        Target by target and seed by seed.

    Raises:
        FileNotFoundError: If a mask has not been tested.
        ValueError: If a file cannot be read as what it should be.
    """
    return [_read_item(data, target, seed) for target in targets for seed in seeds]


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object, {} if there is no such file.

    Args:
        path: The file.

    Returns:
        The object.

    Raises:
        ValueError: If it is no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: a JSON object is expected, not a {type(found).__name__}")
    return found


def _read_item(data: Path, target: str, seed: int) -> MaskResult:
    name = f"{target}-{seed}"
    tested = data / "test" / name / "figures.json"
    if not tested.is_file():
        raise FileNotFoundError(f"{tested}: no such file; run the stage test for {name} first")
    test = read_json(tested)
    finetune = read_json(data / "finetune" / name / "results.json")
    figures = {**finetune.get("figures", {}), **test.get("figures", {})}
    return MaskResult(
        target=target,
        seed=seed,
        metrics=figures,
        intervals={**finetune.get("intervals", {}), **test.get("intervals", {})},
        methods=test.get("methods", {}),
        against=test.get("against_methods", {}),
        cross=test.get("cross", {}),
        skipped=test.get("skipped", {}),
        facts=_read_lines(data / "test" / name / "facts.jsonl"),
        curve=[_numbers(row) for row in _read_csv(data / "train" / name / "curve.csv")],
        training=read_json(data / "train" / name / "training.json"),
        finetune=finetune,
        finetune_curve=_read_csv(data / "finetune" / name / "curves.csv"),
    )


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def _read_csv(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _numbers(row: Mapping[str, str]) -> dict[str, float]:
    """Return the numeric cells of a row; empty and other cells are left out."""
    found = {}
    for key, cell in row.items():
        try:
            found[key] = float(cell)
        except (TypeError, ValueError):
            continue
    return found
