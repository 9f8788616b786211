"""The page's tables of what the reference code prints: gates, heads, dead neurons, changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from knowsub.report.collect import Analysis, MaskResult, Row
from knowsub.report.structure_tables import PageTable

SHARES = {
    "p_le_0.01": "p ≤ .01",
    "p_le_0.2": "p ≤ .2",
    "undecided": ".45 ≤ p ≤ .55",
    "p_ge_0.8": "p ≥ .8",
    "p_ge_0.99": "p ≥ .99",
}
"""Share of the gates in `training.json` -> its name on the page."""

PARTS = ("q", "k", "v", "output")
"""Parts of an attention head, in the order of the columns."""

CHANGED_SETS = {
    "target": "target, trained prompts",
    "paraphrase": "target, unseen prompts",
    "control": "control",
    "heldout": "control, held out",
    "neighborhood": "neighborhood, held out",
}
"""Set of statements -> its name on the page."""


def reference_tables(results: Sequence[MaskResult], analysis: Analysis) -> Iterator[PageTable]:
    """Yield the tables that there are values for, in the order of the page."""
    masks = analysis.get("structure", {}).get("masks", [])
    tables = (_gate_table(results), _head_table(masks), _dead_table(masks), _change_table(results))
    yield from (table for table in tables if table.rows)


def _gate_table(results: Sequence[MaskResult]) -> PageTable:
    rows = [
        [result.name, *(f"{result.training['gates'][share]:.2%}" for share in SHARES)]
        for result in results
        if "gates" in result.training
    ]
    note = (
        "Shares of the gates by their probability p of being open, at the step whose mask was "
        "chosen; those above .5 are the mask before it is trimmed. curve.csv has every validation."
    )
    return PageTable("Probabilities of the gates", note, ["mask", *SHARES.values()], 1, rows)


def _head_table(masks: Sequence[Row]) -> PageTable:
    """Return the mean density of every head's slices, one row per head."""
    densities: dict[tuple[str, int, str, int], dict[str, list[float]]] = {}
    for mask in masks:
        for group in mask["groupings"].get("head part", {}).get("groups", []):
            block, number, kind, head, part = _head_part(group["name"])
            parts = densities.setdefault((block, number, kind, head), {})
            parts.setdefault(part, []).append(group["density"])
    rows = [
        [f"{block} {number} {kind} {head}", *(_range(parts.get(part, [])) for part in PARTS)]
        for (block, number, kind, head), parts in sorted(densities.items())
    ]
    note = (
        "Share of each head's query, key, value and output weights that belong to a mask: mean "
        "over masks, in brackets the least and the greatest."
    )
    return PageTable("Attention heads", note, ["head", *PARTS], 1, rows)


def _head_part(name: str) -> tuple[str, int, str, int, str]:
    """Split a name such as `block 3 kv head 1 k`; numbers are numbers, so that 10 follows 9."""
    block, number, *kind, head, part = name.split(" ")
    return block, int(number), " ".join(kind), int(head), part


def _range(values: Sequence[float]) -> str:
    if not values:
        return "–"
    return f"{sum(values) / len(values):.2%} ({min(values):.2%} to {max(values):.2%})"


def _dead_table(masks: Sequence[Row]) -> PageTable:
    """Return the dead neurons of every kind of matrix, one row per mask."""
    counts: dict[str, dict[str, dict[str, list[int]]]] = {}
    for mask in masks:
        by_type = counts.setdefault(f"{mask['target']}-{mask['seed']}", {})
        for row in mask["neurons"]:
            if "dead" in row:
                directions = by_type.setdefault(row["matrix"].rpartition(".")[2], {})
                total = directions.setdefault(row["direction"], [0, 0])
                total[0], total[1] = total[0] + row["dead"], total[1] + row["neurons"]
    types = list(dict.fromkeys(name for by_type in counts.values() for name in by_type))
    rows = [[mask, *(_dead(by_type.get(name)) for name in types)]
            for mask, by_type in counts.items() if by_type]  # fmt: skip
    note = (
        "Neurons of a matrix all of whose weights in it are removed, of how many: those that it "
        "reads from, and those that it writes to; all blocks together."
    )
    columns = ["mask", *(f"{name}, read / written" for name in types)]
    return PageTable("Dead neurons", note, columns, 1, rows)


def _dead(directions: dict[str, list[int]] | None) -> str:
    if directions is None:
        return "–"
    cells = (directions.get(name, [0, 0]) for name in ("input", "output"))
    return " / ".join(f"{dead:,} of {number:,}" for dead, number in cells)


def _change_table(results: Sequence[MaskResult]) -> PageTable:
    rows = [
        [
            result.name, label,
            *(f"{value:+,.1f}" for value in result.changes[name]["rank"]),
            *(f"{value:+.3f}" for value in result.changes[name]["log_probability"]),
        ]
        for result in results
        for name, label in CHANGED_SETS.items()
        if name in result.changes
    ]  # fmt: skip
    note = (
        "Remaining minus original model, over the statements of a set: 0-based vocabulary rank of "
        "the object, and its log-probability [nats per token]."
    )
    ends = [f"{what}, {end}" for what in ("rank", "log p") for end in ("mean", "least", "most")]
    return PageTable("Changes of rank and probability", note, ["mask", "facts", *ends], 2, rows)
