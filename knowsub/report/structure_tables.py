"""The tables of the page's section on structure: where, how alike, and what parts do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from knowsub.report.collect import Row


@dataclass(frozen=True)
class PageTable:
    """A table of text."""

    title: str
    """Its heading."""
    note: str
    """How to read it."""
    columns: Sequence[str]
    """Heads of the columns."""
    names: int
    """How many leading columns are names, aligned to the left."""
    rows: Sequence[Sequence[str]]
    """The cells."""


def structure_tables(analysis: Mapping[str, Row]) -> Iterator[PageTable]:
    """Yield the tables that there are values for.

    Args:
        analysis: Name of a file of `data/analyze/` without its ending -> its content.

    Yields:
        The tables, in order of the page.
    """
    masks = analysis.get("structure", {}).get("masks", [])
    if masks:
        yield _where(masks, analysis["structure"]["alpha"])
    if analysis.get("overlap", {}).get("pairs"):
        yield _alike(analysis["overlap"])
    function = analysis.get("function", {})
    if function.get("parts"):
        yield _parts(function["parts"])
    if function.get("combined"):
        yield _combined(function["combined"])


def _where(masks: Sequence[Row], alpha: float) -> PageTable:
    columns = ["mask", "weights", "fullest matrix", "fullest head", "w blocks", "w parts",
               "w heads", "top 1 % of outputs", "size of weights"]  # fmt: skip
    note = (
        "Fullest: density over the mean of its level; * differs from uniform placement "
        f"(exact hypergeometric test, Holm's correction, family-wise error {alpha:g}). "
        "w: Cohen's effect size of the chi-square test over the level's groups (0.1 small, 0.3 "
        "medium, 0.5 large). Top 1 % of outputs: share of a matrix's removed weights in its "
        "fullest 1 % of output neurons, median over matrices, beside its expectation under uniform "
        "placement. Size of weights: mean quantile of the removed weights' magnitudes within their "
        "matrix (50 % = no relation), with the Kolmogorov-Smirnov distance from those kept."
    )
    return PageTable(
        "Where they lie", note, columns, 1, [_where_row(mask, alpha) for mask in masks]
    )


def _where_row(mask: Row, alpha: float) -> list[str]:
    levels = mask["levels"]
    outputs = [row for row in mask["neurons"] if row["unit"] == "output"]
    top = median(row["top_share"] for row in outputs)
    chance = median(row["top_share_uniform"] for row in outputs)
    size = mask["magnitude"]
    return [
        f"{mask['target']}-{mask['seed']}",
        f"{mask['size']:,}",
        _fullest(levels, "cell", alpha),
        _fullest(levels, "head", alpha),
        *(f"{levels[n]['effect']:.2f}" if n in levels else "–" for n in ("block", "part", "head")),
        f"{top:.1%} ({chance:.1%})",
        f"{size['mean_quantile']:.0%}, KS {size['ks']:.2f}",
    ]


def _fullest(levels: Row, level: str, alpha: float) -> str:
    if level not in levels:
        return "–"
    first = levels[level]["groups"][0]
    star = "*" if first["p_holm"] < alpha else ""
    return f"{first['name'].replace('_', ' ')} ×{first['enrichment']:.2f}{star}"


def _alike(overlap: Row) -> PageTable:
    rows = []
    for kind, mean in overlap["kinds"].items():
        pairs = [pair for pair in overlap["pairs"] if pair["kind"] == kind]
        rows.append([
            kind, str(mean["pairs"]), f"{mean['jaccard']:.3f}",
            f"×{mean['jaccard_over_expected']:.1f}", f"×{mean['shared_over_expected']:.1f}",
            f"{_mean(pairs, 'head_correlation'):.2f}", f"{_mean(pairs, 'neuron_correlation'):.2f}",
            _p_text(max(pair["p_holm"] for pair in pairs)),
        ])  # fmt: skip
    columns = ["pair of masks", "pairs", "Jaccard", "over chance", "shared over chance",
               "heads", "neurons", "largest p"]  # fmt: skip
    note = (
        "Chance: independent masks of the same densities per matrix. Heads, neurons: Spearman "
        "correlation of their densities. Largest p: of the exact one-sided test for more in "
        "common than chance, Holm's correction over all pairs."
    )
    return PageTable("How alike they are", note, columns, 1, rows)


def _parts(rows: Sequence[Row]) -> PageTable:
    whole = {(r["target"], r["seed"]): r for r in rows if r["name"] == "whole"}
    cells = []
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == name]
        share = [r["weights"] / max(whole[r["target"], r["seed"]]["weights"], 1) for r in own]
        cells.append([
            name.replace("_", " "), f"{sum(share) / len(share):.1%}",
            _nats(_mean(own, "target_dnll")), _nats(_mean(own, "control_dnll")),
        ])  # fmt: skip
    columns = ["removed part", "share of the mask", "target", "control"]
    note = (
        "NLL above the original's [nats per tail token] after removing only that part, mean over "
        "masks."
    )
    return PageTable("What each part does alone", note, columns, 1, cells)


def _combined(rows: Sequence[Row]) -> PageTable:
    cells = [
        [row["target"], row["name"], f"{row['weights']:,}",
         _nats(row["target_dnll"]), _nats(row["control_dnll"])]
        for row in rows
    ]  # fmt: skip
    columns = ["target removed", "masks of its seeds combined", "weights", "target", "control"]
    note = (
        "NLL above the original's [nats per tail token]. Shared core: weights in the masks of all "
        "seeds; random part as large: as many weights of the first mask, drawn at random."
    )
    return PageTable("Seeds combined", note, columns, 2, cells)


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(float(row[name]) for row in rows) / len(rows)


def _nats(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}"


def _p_text(p: float) -> str:
    return "< 1e-15" if p < 1e-15 else f"{p:.2g}"
