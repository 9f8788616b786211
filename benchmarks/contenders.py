"""What is measured against what: every contender is a function that does one step."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import workload
from benchmarks.finetune import Finetune
from benchmarks.machine import exact_matmul, has_bfloat16
from benchmarks.straightforward import Straightforward
from knowsub.architectures import maskable_matrices
from knowsub.discovery.kernels import matmul_backend
from knowsub.discovery.options import Matmul, Precision

COEFFICIENTS = {"suppression": 1.5, "control": 1.0, "text": 1.0, "sparsity": 2.0}
EXACT = exact_matmul()
"""On processors with AMX, where oneDNN is not exact, both libraries are the default one."""
SEARCHES: dict[str, dict[str, object]] = {
    "search": {"matmul": EXACT},
    "search_default": {},
    "search_bf16": {"precision": Precision.BFLOAT16},
}
FINETUNES = {
    "finetune": (EXACT, False),
    "finetune_default": (Matmul.DEFAULT, False),
    "finetune_lean": (EXACT, True),
    "finetune_lean_default": (Matmul.DEFAULT, True),
}
"""Library of matrix products, and whether the step is a lean one; see `Finetune`."""
CONTENDERS = ("straightforward", *SEARCHES, *FINETUNES)
"""All of them; those with `default` in their name, and the straightforward loop, leave the
library of matrix products as it is."""


def contenders(device: str) -> list[str]:
    """Return who takes part: on a GPU there is no choice of library, and none twice.

    On a processor without instructions for bfloat16 a step in it would take minutes.
    """
    if device == "cuda":
        return [name for name in CONTENDERS if "default" not in name]
    return [name for name in CONTENDERS if "bf16" not in name or has_bfloat16()]


def contender(name: str, shape: workload.Shape, device: str) -> Callable[[], object]:
    """Return the step of one contender on a workload of a shape."""
    model = workload.build(shape, device)
    if name == "straightforward":
        plain = Straightforward(model, maskable_matrices(model), 0.2, COEFFICIENTS)
        batches = workload.batches(shape, device)
        return lambda: plain.step(*batches)
    if name in SEARCHES:
        return workload.search(model, shape, **SEARCHES[name]).train_step
    matmul, lean = FINETUNES[name]
    finetune = Finetune(workload.search(model, shape), lean)

    def step() -> float:
        with matmul_backend(matmul):
            return finetune.step()

    return step
