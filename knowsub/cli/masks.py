"""The commands that need masks alone: `show`, `compare`, `combine`.

`show` reads a mask's bits as arrays: importing torch would take longer than all else that it does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from knowsub.analysis.placement import implied_matrices, member_count, placements
from knowsub.artifacts import read_checksummed
from knowsub.cli.app import Result, columns


@dataclass(frozen=True)
class StoredMask:
    """What a mask's file holds."""

    bits: Mapping[str, Any]
    """Name of the matrix -> booleans of its shape."""
    model: str
    """Fingerprint of its model."""
    meta: Mapping[str, str]
    """How it was made."""


def read_mask(path: Path) -> StoredMask:
    """Return a mask's file without torch.

    Raises FileNotFoundError or ValueError if there is no valid mask.
    """
    packed, header = read_checksummed(path)
    try:
        bits = {name: _unpacked(packed[name], shape) for name, shape in header["shapes"].items()}
        if header["format"] == "knowsub-mask-1":
            return StoredMask(bits, header["model"], header["meta"])
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    from knowsub.masks.mask import load_mask  # says what is wrong, or knows a later format

    mask = load_mask(path)
    return StoredMask(
        {name: each.numpy() for name, each in mask.bits.items()}, mask.model, mask.meta
    )


def _unpacked(packed: npt.NDArray[np.uint8], shape: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Return the bits of one matrix; ValueError if there are too few or too many bytes."""
    size = math.prod(shape)
    if packed.shape != (-(-size // 8),):
        raise ValueError(f"{packed.size} bytes for a matrix of shape {shape}")
    return np.unpackbits(packed, count=size).astype(bool).reshape(shape)


def describe(path: Path) -> Result:
    """Return a mask's file, model, metadata, size and placement.

    `groupings` is grouping -> placement; the number of attention heads is inferred from the shapes.
    Raises FileNotFoundError or ValueError if there is no valid mask.
    """
    mask = read_mask(path)
    size = sum(member_count(bits) for bits in mask.bits.values())
    maskable = sum(bits.size for bits in mask.bits.values())
    return {
        "file": str(path),
        "model": mask.model,
        "meta": dict(mask.meta),
        "weights": size,
        "maskable": maskable,
        "sparsity": 1.0 - size / maskable,
        "groupings": {p.grouping: asdict(p) for p in placements(mask, implied_matrices(mask))},
    }


def described_lines(result: Result) -> list[str]:
    """Return the text of `describe`'s result: the six densest groups of each grouping."""
    lines = [
        result["file"],
        f"  model     {result['model'][:16]}",
        f"  weights   {result['weights']:,} of {result['maskable']:,} maskable",
        f"  sparsity  {result['sparsity']:.2%}",
    ]
    lines += [f"  {name:<9} {value[:60]}" for name, value in sorted(result["meta"].items())]
    for grouping, placement in result["groupings"].items():
        groups = placement["groups"][:6]
        effect, p = placement["effect"], placement["p"]
        lines += ["", f"by {grouping.replace('_', ' ')}: effect w {effect:.3f}, p {p:.2g}"]
        rows = [["", "weights", "density", "over mean", "p (Holm)"]]
        rows += [
            [f"  {g['name']}", f"{g['members']:,}", f"{g['density']:.2%}",
             f"×{g['enrichment']:.2f}", f"{g['p_holm']:.2g}"]
            for g in groups
        ]  # fmt: skip
        lines += columns(rows)
        if hidden := len(placement["groups"]) - len(groups):
            lines.append(f"  ... {hidden} more (--json lists all)")
    return lines


def compare_masks(paths: Sequence[Path]) -> Result:
    """Return `masks` (the files) and `pairs`: the overlap of every pair, named by the files.

    Raises ValueError if they differ in model or matrices.
    """
    from knowsub.analysis.overlap import compare, summarize_mask
    from knowsub.masks.mask import load_mask

    summaries = []
    for path in paths:
        mask = load_mask(path)
        summaries.append(summarize_mask(mask, implied_matrices(mask), str(path), 0))
    pairs = [asdict(compare(*pair)) for pair in combinations(summaries, 2)]
    for pair, files in zip(pairs, combinations(paths, 2), strict=True):
        pair["first"], pair["second"] = map(str, files)
        del pair["kind"], pair["p_holm"]
    return {"masks": [str(path) for path in paths], "pairs": pairs}


def pair_lines(result: Result) -> list[str]:
    """Return the text of `compare_masks`' result, the masks by number."""
    number = {path: str(index) for index, path in enumerate(result["masks"], start=1)}
    rows = [["masks", "shared", "by chance", "ratio", "Jaccard", "heads", "neurons", "p"]]
    rows += [
        [
            f"{number[pair['first']]} & {number[pair['second']]}",
            f"{pair['shared']:,}",
            f"{pair['expected']:,.0f}",
            f"×{pair['ratio']:.2f}",
            f"{pair['jaccard']:.3f}",
            f"{pair['head_correlation']:.2f}",
            f"{pair['neuron_correlation']:.2f}",
            "< 1e-15" if pair["p"] == 0 else f"{pair['p']:.2g}",
        ]
        for pair in result["pairs"]
    ]
    return [*(f"{index}: {path}" for path, index in number.items()), "", *columns(rows)]


def combine_masks(paths: Sequence[Path], rule: str, out: Path) -> Result:
    """Combine two or more masks by a rule, write the mask, and return its size.

    Raises ValueError if the masks are of different models or cover different matrices.
    """
    from knowsub.masks import mask as mask_algebra
    from knowsub.masks.mask import load_mask, save_mask

    combined = getattr(mask_algebra, rule)(*(load_mask(path) for path in paths))
    out.parent.mkdir(parents=True, exist_ok=True)
    save_mask(combined, out)
    return {"written": str(out), "weights": combined.size, "sparsity": combined.sparsity}
