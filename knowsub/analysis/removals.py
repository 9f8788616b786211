"""Parts, combinations and sizes of all masks, removed one after the other on one bench."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from knowsub.analysis.bench import Bench, Sets
from knowsub.analysis.function import combinations_of, part_figures, parts_of, resized
from knowsub.analysis.study import MaskFile, Rows
from knowsub.anatomy import Site
from knowsub.masks.mask import Mask


@dataclass(frozen=True)
class Removals:
    """What is removed, from which model, and how it is scored."""

    bench: Bench
    """The model with the statements."""
    fingerprint: str
    """The model's fingerprint."""
    sites: Sequence[Site]
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
                figures = part_figures(self.bench, parts_of(mask, self.sites), sets)
                parts += _tag(figures, target=target, seed=seed)
            figures = part_figures(self.bench, self._combined(list(masks.values())), sets)
            combined += _tag(figures, target=target)
            for file in own if self.shares else []:
                if file.seed == own[0].seed:
                    figures = part_figures(self.bench, self._sizes(file), sets)
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
