"""All masks of one `params.yaml` analyzed together, read from disk one file at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from knowsub.analysis.ablations import (
    AblationContext,
    ablation_rows,
    mask_parts,
    resize_mask,
    seed_combinations,
    with_random_twins,
)
from knowsub.analysis.options import AnalyzeOptions
from knowsub.analysis.overlap import MaskSummary, summarize_mask
from knowsub.analysis.structure import magnitude_quantiles, magnitude_test, structure
from knowsub.architectures import MaskableMatrix
from knowsub.artifacts import json_text
from knowsub.masks.mask import Mask, check_model, load_mask, random_masks, save_mask

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

    Folders are never searched: what an earlier run left behind is not counted. `data` holds
    `train/` and `baseline/`. Target by target and seed by seed, the trained mask first.
    """
    files = []
    for target in targets:
        for seed in seeds:
            name = f"{target}-{seed}"
            trained = data / f"train/{name}/mask.safetensors"
            files.append(MaskFile(target, seed, "trained", trained))
            for method in methods:
                path = data / f"baseline/{name}/{method}.safetensors"
                files.append(MaskFile(target, seed, method, path))
    return files


def analyze_structure(
    files: Sequence[MaskFile],
    model: PreTrainedModel,
    fingerprint: str,
    matrices: Sequence[MaskableMatrix],
) -> tuple[Rows, list[MaskSummary]]:
    """Return where every trained mask lies, and a summary of every mask for comparing them.

    Args:
        files: The masks.
        model: Their model.
        fingerprint: The model's fingerprint.
        matrices: All maskable matrices of the model.

    Returns:
        One row per trained mask (`target`, `seed`, `structure`'s fields, `magnitude`), summaries.

    Raises:
        FileNotFoundError: If a mask is missing.
        ValueError: If a mask is corrupt or belongs to another model.
    """
    rows: Rows = []
    summaries: list[MaskSummary] = []
    quantiles: Mapping[str, torch.Tensor] = {}
    for file in files:
        mask = file.load(fingerprint)
        summaries.append(summarize_mask(mask, matrices, file.target, file.seed, file.method))
        if file.method != "trained":
            continue
        if not quantiles.keys() >= mask.bits.keys():  # ranking all weights is slow: once per matrix
            wanted = [each for each in matrices if each.name in mask.bits or each.name in quantiles]
            quantiles = magnitude_quantiles(model, wanted)
        magnitude = asdict(magnitude_test(mask, matrices, quantiles))
        name = {"target": file.target, "seed": file.seed}
        rows.append(name | structure(mask, matrices) | {"magnitude": magnitude})
    return rows, summaries


RESIZED = (0.5, 0.7, 0.9, 1.1, 1.3, 1.5)
"""Sizes at which a mask is shrunk and grown at random, as multiples of its own."""


@dataclass(frozen=True)
class Ablations:
    """Which masks are ablated, at which sizes, and how they are scored."""

    context: AblationContext
    """The model with the statements."""
    fingerprint: str
    """The model's fingerprint."""
    options: AnalyzeOptions
    """The sizes of the trade-off curve, and the seed of random parts."""
    size_multipliers: Sequence[float]
    """Sizes of the other methods' masks, as multiples of the trained one's."""

    def run(self, files: Sequence[MaskFile]) -> dict[str, Rows]:
        """Return `parts`, `combined`, `tradeoff` and `resized` (errors: `MaskFile.load`)."""
        generator = torch.Generator().manual_seed(self.options.seed)
        parts: Rows = []
        combined: Rows = []
        tradeoff: Rows = []
        resized: Rows = []
        for target in self.context.targets:
            own = [file for file in files if file.target == target]
            masks = {f.seed: f.load(self.fingerprint) for f in own if f.method == "trained"}
            for seed, mask in masks.items():
                named = mask_parts(mask, self.context.matrices)
                parts += ablation_rows(self.context, target, named, seed=seed)
            named = self._combined(list(masks.values()), generator)
            combined += ablation_rows(self.context, target, named)
            for file in own if self.options.tradeoff_sizes else []:
                if file.seed == own[0].seed:
                    sizes = self._sizes(file, generator)
                    fields = {"seed": file.seed, "method": file.method}
                    tradeoff += ablation_rows(self.context, target, sizes, **fields)
                    if file.method == "trained":
                        resized += self._resized(target, file, generator)
        rows = {"parts": parts, "combined": combined, "tradeoff": tradeoff}
        return rows | ({"resized": resized} if resized else {})

    def _resized(self, target: str, file: MaskFile, generator: torch.Generator) -> Rows:
        """Return what a trained mask does as it shrinks and grows at random, and random masks do.

        `per matrix` keeps each matrix's share, `across` the whole mask's as in the paper; `random`
        has as many weights in each matrix as the former, none of them the mask's but by chance.
        """
        mask, rows = file.load(self.fingerprint), Rows()
        for share in RESIZED:
            matched = resize_mask(mask, share, generator)
            masks = {
                "per matrix": matched,
                "across": resize_mask(mask, share, generator, across=True),
                "random": next(random_masks(matched, 1, generator)),
            }
            rows += ablation_rows(self.context, target, masks, seed=file.seed, share=share)
        return rows

    def _combined(self, masks: Sequence[Mask], generator: torch.Generator) -> dict[str, Mask]:
        combined = seed_combinations(masks)
        if combined:
            share = min(1.0, combined["shared core"].size / max(masks[0].size, 1))
            combined["random part as large"] = resize_mask(masks[0], share, generator)
        return with_random_twins(combined, generator)

    def _sizes(self, file: MaskFile, generator: torch.Generator) -> dict[str, Mask]:
        """Return random shares of a trained mask, or a baseline's masks at the sizes on disk."""
        mask = file.load(self.fingerprint)
        if file.method == "trained":
            shares = self.options.tradeoff_sizes
            return {f"{share:g}": resize_mask(mask, share, generator) for share in shares}
        masks = {size: file.resized(size).load(self.fingerprint) for size in self.size_multipliers}
        return {f"{size:g}": each for size, each in sorted({**masks, 1.0: mask}.items())}


def write_combinations(folder: Path, files: Sequence[MaskFile], model: str) -> list[Path]:
    """Write each target's `seed_combinations` as masks of a model, `<target>-<name>.safetensors`.

    Return the files (errors: `MaskFile.load`); the folder is made if there is anything to write.
    """
    written = []
    for target in dict.fromkeys(file.target for file in files):
        trained = [f for f in files if (f.target, f.method) == (target, "trained")]
        masks = [file.load(model) for file in trained]
        for name, mask in seed_combinations(masks).items():
            folder.mkdir(parents=True, exist_ok=True)
            written.append(folder / f"{target}-{name.replace(' ', '_')}.safetensors")
            meta = {"method": name, "target": target, "masks": str(len(masks))}
            save_mask(Mask(mask.bits, model, meta), written[-1])
    return written


def write_analysis(folder: Path, results: Mapping[str, object]) -> list[Path]:
    """Write each result as `<name>.json` into a folder, which is made; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in results.items():
        written.append(folder / f"{name}.json")
        text = json_text(content, written[-1], indent=1, sort_keys=True)
        written[-1].write_text(text + "\n", encoding="utf-8", newline="\n")
    return written
