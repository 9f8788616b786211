"""A complete small search: a random model, random sequences, default-like options."""

from __future__ import annotations

from functools import partial

import torch

from knowsub.anatomy import Part, block_count, sites
from knowsub.discovery.data import TrainingData
from knowsub.discovery.ignorance import ignorance
from knowsub.discovery.options import Matmul, Precision, Suppression, TrainOptions
from knowsub.discovery.processes import Processes
from knowsub.discovery.reference import recall, remember
from knowsub.discovery.trainer import Search
from knowsub.lm.encode import Batch
from knowsub.lm.score import score
from knowsub.lm.trunk import Allocate, in_memory, push, upper_blocks
from knowsub.masks.kinds import Estimator, Unit
from knowsub.masks.model import Gates
from tests.architectures import VOCAB, tiny


def options(**changes: object) -> TrainOptions:
    values: dict[str, object] = {
        "unit": Unit.WEIGHT, "estimator": Estimator.GUMBEL_SIGMOID, "blocks": "upper_half",
        "parts": list(Part), "initial": 0.3, "temperature": 1.0, "noise_end": 0.0,
        "noise_begin": 0.6, "steps": 6, "lr": 0.3, "warmup": 0.2, "decay": 0.0,
        "suppression": Suppression.UNIFORM, "suppression_weight": 1.5, "maintenance_weight": 1.0,
        "trace_weight": 0.0, "shifted": True,
        "text_weight": 0.7, "near_weight": 0.6, "near_batch": 3, "untold_share": 0.5,
        "expression_weight": 0.0, "sparsity_start": 2.0, "sparsity_end": 3.0,
        "sparsity_begin": 0.5, "aim_density": 0.0, "max_density": 0.2, "target_batch": 3,
        "control_batch": 5, "text_batch": 2, "block_tokens": 8, "accumulate": 1, "recompute": False,
        "precision": Precision.FLOAT32, "matmul": Matmul.DEFAULT, "evaluate_every": 2,
        "checkpoint_every": 2, "max_control_ratio": 1.5, "max_text_ratio": 1.5,
    }  # fmt: skip
    return TrainOptions(**(values | changes))


def statements(count: int, width: int, seed: int, tail: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, VOCAB, (count, width), generator=generator)
    reads = torch.zeros_like(tokens, dtype=torch.bool)
    for row in range(count):
        end = width - row % 3
        tokens[row, end:] = 0
        reads[row, end - tail - 1 : end - 1] = True
    return Batch(tokens, reads)


def text(count: int, width: int, seed: int) -> Batch:
    tokens = torch.randint(1, VOCAB, (count, width), generator=torch.Generator().manual_seed(seed))
    reads = torch.ones_like(tokens, dtype=torch.bool)
    reads[:, -1] = False
    return Batch(tokens, reads)


def search(
    seed: int = 0,
    tail: int = 1,
    kind: str = "gpt2",
    allocate: Allocate = in_memory,
    processes: Processes | None = None,
    device: str = "cpu",
    attention: str = "eager",
    **changes: object,
) -> Search:
    model = tiny(kind, attention=attention).to(device)
    chosen = options(**changes)
    blocks = chosen.block_range(block_count(model))
    upper = upper_blocks(model, blocks.start)

    def with_trunk(batch: Batch) -> Batch:
        return push(model, blocks.start, batch, allocate=allocate)

    target, control = with_trunk(statements(4, 7, 1, tail)), with_trunk(statements(9, 9, 2, tail))

    kept = partial(remember, upper, precision=chosen.precision, allocate=allocate)
    asked = torch.tensor([3, 3, 8, 0])
    data = TrainingData(
        target=target,
        control=kept(control),
        near=kept(with_trunk(statements(5, 8, 4, tail))),
        near_told=3,
        text=kept(with_trunk(text(4, 8, 3))),
        ignorance=ignorance(upper, target, recall(upper, control), lambda table: asked),
    )
    found = sites(model, blocks, chosen.parts)
    gates = Gates(model, found, chosen.unit, chosen.estimator, chosen.initial)
    return Search(gates, upper, data, chosen, seed, processes)


def validation(made: Search) -> dict[str, float]:
    """Validate on the training data: enough for the loop's own laws."""
    upper, data = made.gradient.upper, made.data
    target = score(upper, data.target)
    return {
        "target_nll": float(target.mean_nll.mean()),
        "control_ratio": score(upper, data.control.batch).perplexity / VOCAB,
        "text_ratio": 1.0,
    }
