"""The page `docs/cost.md`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.shapes import RUNTIME, SHAPES, VECTORS, arithmetic, memory, parameters

GPUS = (16, 24, 80, 141)
"""Memory of the GPUs that are asked about [GB]."""
Kept = Mapping[str, Mapping[str, Any]]
"""By device, `cpu` or `cuda`: machine, date, and what was measured of each shape."""


def page(kept: Kept) -> str:
    """Return the page."""
    fits = " | ".join(f"{size} GB" for size in GPUS)
    cells = [
        "shape", "parameters", "maskable", "CPU: step [s]", "CPU: memory [GB]",
        "GPU: step [s]", "GPU: bfloat16 [s]", "GPU: tensors [GB]", "modelled [GB]",
    ]  # fmt: skip
    lines = [*_words(kept), "", f"| {' | '.join(cells)} | {fits} |"]
    lines.append(f"|{' --- |' * (len(cells) + len(GPUS))}")
    for name, shape in SHAPES.items():
        total, maskable = parameters(shape)
        needed = memory(shape)
        places = ["yes" if needed <= 0.9 * size else "no" for size in GPUS]
        sizes = [name, f"{total / 1e6:.0f}M", f"{maskable / 1e6:.1f}M"]
        lines.append(
            f"| {' | '.join([*sizes, *_on_cpu(name, kept), *_on_gpu(name, kept)])} "
            f"| {needed:.1f} | {' | '.join(places)} |"
        )
    return "\n".join(lines) + "\n"


def _words(kept: Kept) -> list[str]:
    where = {"cpu": "CPU", "cuda": "GPU"}
    machines = [f"{where[name]}: {one['machine']}, {one['date']}." for name, one in kept.items()]
    return [
        "# What a step costs",
        "",
        "Written by `python -m benchmarks.cost`. Shapes of GPT-2 with random weights, weight masks",
        "on the upper half of the blocks, float32, 16 target and 32 control statements of 9",
        "tokens, 2 x 128 tokens of text; a step of the search, median of five. On a CPU: one",
        "thread, the processor's time, peak memory of the process. On a GPU: time until all work",
        "is done, peak memory of the tensors; the context of CUDA comes on top. *In italics*: not",
        "measured but modelled, the time by the arithmetic of the matrix products at the rate of",
        "the largest shape measured, the memory as 4 bytes times the model without its lower",
        f"blocks, {VECTORS} numbers per maskable weight, activations, a piece of the logits, and",
        f"{RUNTIME:.0f} GB for libraries or context. A GPU fits a shape if the modelled memory is",
        "at most nine tenths of its own; `train.activation_checkpointing` and",
        "`train.grad_accumulation` take less.",
        "",
        *machines,
    ]


def _on_cpu(name: str, kept: Kept) -> list[str]:
    rows: dict[str, dict[str, float]] = kept.get("cpu", {}).get("shapes", {})
    if not rows:
        return ["–", "–"]
    if name in rows:
        return [f"{rows[name]['float32']:.1f}", f"{rows[name]['gigabytes']:.1f}"]
    largest = max(rows, key=lambda other: arithmetic(SHAPES[other]))
    rate = rows[largest]["float32"] / arithmetic(SHAPES[largest])
    return [f"*{rate * arithmetic(SHAPES[name]):.1f}*", f"*{memory(SHAPES[name]):.1f}*"]


def _on_gpu(name: str, kept: Kept) -> list[str]:
    row = kept.get("cuda", {}).get("shapes", {}).get(name)
    if row is None:
        return ["–", "–", "–"]
    return [f"{row['float32']:.4f}", f"{row['bfloat16']:.4f}", f"{row['gigabytes']:.1f}"]
