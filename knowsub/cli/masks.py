"""The commands that need masks alone: `show`, `compare`, `combine`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path

from knowsub.analysis.counts import implied_matrices
from knowsub.analysis.overlap import compare, summarize_mask
from knowsub.analysis.structure import placements
from knowsub.cli.app import Result, columns
from knowsub.masks import mask as algebra
from knowsub.masks.mask import load_mask, save_mask

SHOWN = 6
"""Groups of each level that are printed."""


def describe(path: Path) -> Result:
    """Return what a mask is and where it lies.

    Args:
        path: The mask's file.

    Returns:
        `file`, `model`, `meta`, `weights`, `maskable`, `sparsity` and `levels` (level ->
        placement, heads told from the shapes).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no mask.
    """
    mask = load_mask(path)
    found = placements(mask, implied_matrices(mask))
    return {
        "file": str(path),
        "model": mask.model,
        "meta": dict(mask.meta),
        "weights": mask.size,
        "maskable": mask.maskable,
        "sparsity": mask.sparsity,
        "levels": {level.level: asdict(level) for level in found},
    }


def described_lines(result: Result) -> list[str]:
    """Return the text of `describe`'s result: at most six groups of each level."""
    lines = [
        result["file"],
        f"  model     {result['model'][:16]}",
        f"  weights   {result['weights']:,} of {result['maskable']:,} maskable",
        f"  sparsity  {result['sparsity']:.2%}",
    ]
    lines += [f"  {name:<9} {value[:60]}" for name, value in sorted(result["meta"].items())]
    for level, placement in result["levels"].items():
        groups = placement["groups"][:SHOWN]
        lines += ["", f"by {level}: effect w {placement['effect']:.3f}, p {placement['p']:.2g}"]
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
    """Return what every pair of masks has in common.

    Args:
        paths: Two or more mask files.

    Returns:
        `masks`, the files, and `pairs`: rows as `Pair` holds them, named by their files.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If there are fewer than two, one is no mask, or they differ in model or sites.
    """
    if len(paths) < 2:
        raise ValueError(f"compare needs two masks or more, not {len(paths)}")
    profiles = []
    for path in paths:
        mask = load_mask(path)
        profiles.append(summarize_mask(mask, implied_matrices(mask), str(path), 0))
    pairs = [asdict(compare(*pair)) for pair in combinations(profiles, 2)]
    for pair, files in zip(pairs, combinations(paths, 2), strict=True):
        pair["first"], pair["second"] = map(str, files)
        del pair["kind"], pair["p_holm"]
    return {"masks": [str(path) for path in paths], "pairs": pairs}


def pair_lines(result: Result) -> list[str]:
    """Return the text of `compare_masks`' result, the masks by number."""
    number = {path: str(place) for place, path in enumerate(result["masks"], start=1)}
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
    return [*(f"{place}: {path}" for path, place in number.items()), "", *columns(rows)]


def combine_masks(paths: Sequence[Path], rules: Sequence[str], out: Path, force: bool) -> Result:
    """Combine masks and write the result.

    Args:
        paths: Two or more mask files.
        rules: Exactly one of union, intersection, floral and difference.
        out: Mask file to write.
        force: Whether a file that is there may be replaced.

    Returns:
        `written`, `weights`, `sparsity`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If not exactly one rule is given, there are fewer than two masks, they do not
            fit together, or the file exists.
    """
    if len(rules) != 1:
        asked = ", ".join(f"--{rule}" for rule in rules) or "none"
        raise ValueError(
            f"combine needs one of --union, --intersection, --floral, --difference, not {asked}"
        )
    if len(paths) < 2:
        raise ValueError(f"combine needs two masks or more, not {len(paths)}")
    refuse_existing(out, force)
    combined = getattr(algebra, rules[0])(*(load_mask(path) for path in paths))
    out.parent.mkdir(parents=True, exist_ok=True)
    save_mask(combined, out)
    return {"written": str(out), "weights": combined.size, "sparsity": combined.sparsity}


def refuse_existing(path: Path, force: bool) -> None:
    """Refuse to write over what is there (ValueError), unless forced."""
    if path.exists() and not force:
        raise ValueError(f"{path} exists already; --force replaces it")


def written_lines(result: Result) -> list[str]:
    """Return the text of a result that was written."""
    return [
        f"{result['written']}: {result['weights']:,} weights in the subnetwork, "
        f"sparsity {result['sparsity']:.2%}"
    ]
