"""All masks of one `params.yaml` analysed together: one file read at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from knowsub.analysis.ablations import (
    AblationContext,
    Sets,
    combinations_of,
    part_rows,
    parts_of,
    resized,
)
from knowsub.analysis.concentration import magnitude_quantiles, magnitude_test
from knowsub.analysis.overlap import MaskSummary, overlaps, summarize_mask
from knowsub.analysis.structure import structure
from knowsub.architectures import MaskableMatrix
from knowsub.masks.mask import Mask, check_model, load_mask, save_mask

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class MaskFile:
    """Where one mask lies and what it is."""

    target: str
    """What it removes."""
    seed: int
    """Seed of its training."""
    method: str
    """`trained`, or the name of a baseline."""
    path: Path
    """Its file."""

    def resized(self, factor: float) -> MaskFile:
        """Return the file of the same method's mask at another size, a multiple of this one's."""
        return replace(self, path=self.path.parent / f"sizes/{self.method}-{factor}.safetensors")

    def load(self, model: str) -> Mask:
        """Return the mask (FileNotFoundError, or ValueError if corrupt or of another model)."""
        mask = load_mask(self.path)
        check_model(mask, model)
        return mask


def mask_files(
    data: Path, targets: Sequence[str], seeds: Sequence[int], methods: Sequence[str]
) -> list[MaskFile]:
    """Return every mask that the parameters ask for, whether or not its file exists.

    Folders are never searched: what an earlier run left behind is not counted.

    Args:
        data: The folder that holds `train/` and `baseline/`.
        targets: Target synsets.
        seeds: Seeds of training.
        methods: Baseline methods.

    Returns:
        Target by target and seed by seed, the trained mask first.
    """
    return [
        found
        for target in targets
        for seed in seeds
        for found in (
            MaskFile(target, seed, "trained", data / f"train/{target}-{seed}/mask.safetensors"),
            *(
                MaskFile(target, seed, name, data / f"baseline/{target}-{seed}/{name}.safetensors")
                for name in methods
            ),
        )
    ]


def analyze_structure(
    files: Sequence[MaskFile],
    model: PreTrainedModel,
    fingerprint: str,
    sites: Sequence[MaskableMatrix],
) -> tuple[Rows, list[MaskSummary]]:
    """Return where every trained mask lies, and a profile of every mask for comparing them.

    Args:
        files: The masks.
        model: Their model.
        fingerprint: The model's fingerprint.
        sites: All maskable matrices of the model.

    Returns:
        One row per trained mask (`target`, `seed`, `structure`'s fields, `magnitude`), profiles.

    Raises:
        FileNotFoundError: If a mask is missing.
        ValueError: If a mask is corrupt or belongs to another model.
    """
    rows: Rows = []
    profiles: list[MaskSummary] = []
    quantiles: Mapping[str, torch.Tensor] = {}
    for file in files:
        mask = file.load(fingerprint)
        profiles.append(summarize_mask(mask, sites, file.target, file.seed, file.method))
        if file.method != "trained":
            continue
        if not quantiles.keys() >= mask.bits.keys():
            wanted = [site for site in sites if site.name in mask.bits or site.name in quantiles]
            quantiles = magnitude_quantiles(model, wanted)
        found = structure(mask, sites)
        found["magnitude"] = asdict(magnitude_test(mask, sites, quantiles))
        rows.append({"target": file.target, "seed": file.seed} | found)
    return rows, profiles


def analyze_overlap(profiles: Sequence[MaskSummary]) -> dict[str, Any]:
    """Return all pairs, and the mean of each kind of pair.

    Args:
        profiles: The masks.

    Returns:
        `pairs` and `kinds` (kind -> number of pairs, mean Jaccard, mean of jaccard over expected).

    Raises:
        ValueError: If the masks differ in model or sites.
    """
    pairs = overlaps(profiles)
    kinds = {}
    for kind in dict.fromkeys(pair["kind"] for pair in pairs):
        rows = [pair for pair in pairs if pair["kind"] == kind]
        over = [row["jaccard"] / row["jaccard_expected"] for row in rows if row["jaccard_expected"]]
        kinds[kind] = {
            "pairs": len(rows),
            "jaccard": sum(row["jaccard"] for row in rows) / len(rows),
            "jaccard_over_expected": sum(over) / len(over) if over else 1.0,
            "shared_over_expected": sum(row["ratio"] for row in rows) / len(rows),
        }
    return {"kinds": kinds, "pairs": pairs}


def write_combinations(folder: Path, files: Sequence[MaskFile], model: str) -> list[Path]:
    """Write what the trained masks of each target have in common and apart, as masks.

    Args:
        folder: Folder to write to; it is made if there is anything to write.
        files: The masks.
        model: Fingerprint of their model.

    Returns:
        The files, `<target>-<name>.safetensors` with the names of `combinations_of`.

    Raises:
        FileNotFoundError: If a mask is not there.
        ValueError: If a mask is corrupt or of another model.
    """
    trained: dict[str, list[Mask]] = {}
    for file in files:
        if file.method == "trained":
            trained.setdefault(file.target, []).append(file.load(model))
    written = []
    for target, masks in trained.items():
        for name, mask in combinations_of(masks).items():
            folder.mkdir(parents=True, exist_ok=True)
            written.append(folder / f"{target}-{name.replace(' ', '_')}.safetensors")
            meta = {"method": name, "target": target, "masks": str(len(masks))}
            save_mask(Mask(mask.bits, model, meta), written[-1])
    return written


def write_analysis(folder: Path, findings: Mapping[str, object]) -> list[Path]:
    """Write what was found as JSON; the same findings give the same bytes.

    Args:
        folder: Folder to write to; it is made.
        findings: Name -> content.

    Returns:
        The files, `<name>.json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in findings.items():
        written.append(folder / f"{name}.json")
        text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
        written[-1].write_text(text + "\n", encoding="utf-8", newline="\n")
    return written


@dataclass(frozen=True)
class Ablations:
    """What is removed, from which model, and how it is scored."""

    bench: AblationContext
    """The model with the statements."""
    fingerprint: str
    """The model's fingerprint."""
    sites: Sequence[MaskableMatrix]
    """All maskable matrices of the model."""
    sets: Mapping[str, Sets]
    """Target -> its statements on the bench."""
    shares: Sequence[float]
    """Sizes of a trained mask on the trade-off curve [fraction of it]; [] = no curve."""
    factors: Sequence[float]
    """Sizes of the other methods' masks, as multiples of the trained one's."""
    generator: torch.Generator = field(default_factory=torch.Generator)
    """Source of randomness of the random parts."""

    def study(self, files: Sequence[MaskFile]) -> dict[str, Any]:
        """Return what parts, combinations and sizes of the masks do to target and control.

        Args:
            files: The masks, those of a target together.

        Returns:
            `parts`, `combined` and `tradeoff`: rows of `name`, `weights`, `target_dnll` and
            `control_dnll`, with what they belong to.

        Raises:
            FileNotFoundError: If a mask is missing.
            ValueError: If a mask is corrupt or belongs to another model.
        """
        parts: Rows = []
        combined: Rows = []
        tradeoff: Rows = []
        for target, sets in self.sets.items():
            own = [file for file in files if file.target == target]
            masks = {f.seed: f.load(self.fingerprint) for f in own if f.method == "trained"}
            for seed, mask in masks.items():
                figures = part_rows(self.bench, parts_of(mask, self.sites), sets)
                parts += _tag(figures, target=target, seed=seed)
            figures = part_rows(self.bench, self._combined(list(masks.values())), sets)
            combined += _tag(figures, target=target)
            for file in own if self.shares else []:
                if file.seed == own[0].seed:
                    figures = part_rows(self.bench, self._sizes(file), sets)
                    tradeoff += _tag(figures, target=target, seed=file.seed, method=file.method)
        return {"parts": parts, "combined": combined, "tradeoff": tradeoff}

    def _combined(self, masks: Sequence[Mask]) -> dict[str, Mask]:
        combined = combinations_of(masks)
        if combined:
            share = min(1.0, combined["shared core"].size / max(masks[0].size, 1))
            combined["random part as large"] = resized(masks[0], share, self.generator)
        return combined

    def _sizes(self, file: MaskFile) -> dict[str, Mask]:
        """Random shares of a trained mask; another method's masks at the sizes on disk."""
        mask = file.load(self.fingerprint)
        if file.method == "trained":
            return {f"{share:g}": resized(mask, share, self.generator) for share in self.shares}
        others = {factor: file.resized(factor).load(self.fingerprint) for factor in self.factors}
        return {f"{factor:g}": one for factor, one in sorted({**others, 1.0: mask}.items())}


def _tag(rows: Rows, **fields: object) -> Rows:
    return [dict(fields) | row for row in rows]
