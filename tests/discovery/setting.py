"""A complete small search: a random model, random sequences, default-like options."""

from __future__ import annotations

from functools import partial

import torch

from knowsub.architectures import ModuleType, block_count, maskable_matrices
from knowsub.discovery.distributed import ProcessGroup
from knowsub.discovery.ignorance import ignorance
from knowsub.discovery.options import Matmul, Precision, Suppression, TrainOptions
from knowsub.discovery.step import TrainingData
from knowsub.discovery.teacher import cache_teacher, cache_teacher_states
from knowsub.discovery.trainer import MaskTrainer
from knowsub.lm.batch import Batch
from knowsub.lm.blocks import Allocate, cache_lower_states, in_memory, upper_blocks
from knowsub.lm.score import score
from knowsub.masks.gates import Gates
from knowsub.masks.options import Estimator, Granularity
from tests.architectures import VOCAB, tiny


def options(**changes: object) -> TrainOptions:
    values: dict[str, object] = {
        "unit": Granularity.WEIGHT, "estimator": Estimator.GUMBEL_SIGMOID, "blocks": "upper_half",
        "parts": list(ModuleType), "initial": 0.3, "temperature": 1.0, "noise_final": 0.0,
        "noise_decay_start": 0.6, "steps": 6, "lr": 0.3, "warmup": 0.2, "decay": 0.0,
        "suppression": Suppression.UNIFORM, "suppression_weight": 1.5, "control_weight": 1.0,
        "causal_shift": True,
        "text_weight": 0.7, "neighborhood_weight": 0.6, "neighborhood_batch": 3, "unseen_share": 0.5,
        "expression_weight": 0.0, "sparsity_weight_start": 2.0, "sparsity_weight_end": 3.0,
        "sparsity_ramp_start": 0.5, "target_density": 0.0, "max_density": 0.2, "target_batch": 3,
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
    processes: ProcessGroup | None = None,
    device: str = "cpu",
    attention: str = "eager",
    **changes: object,
) -> MaskTrainer:
    model = tiny(kind, attention=attention).to(device)
    chosen = options(**changes)
    blocks = chosen.block_range(block_count(model))
    upper = upper_blocks(model, blocks.start)

    def with_trunk(batch: Batch) -> Batch:
        return cache_lower_states(model, blocks.start, batch, allocate=allocate)

    target, control = with_trunk(statements(4, 7, 1, tail)), with_trunk(statements(9, 9, 2, tail))

    kept = partial(cache_teacher, upper, precision=chosen.precision, allocate=allocate)
    asked = torch.tensor([3, 3, 8, 0])
    data = TrainingData(
        target=target,
        control=kept(control),
        neighborhood=kept(with_trunk(statements(5, 8, 4, tail))),
        n_neighborhood=3,
        text=kept(with_trunk(text(4, 8, 3))),
        ignorance=ignorance(
            upper, target, cache_teacher_states(upper, control), lambda table: asked
        ),
    )
    found = maskable_matrices(model, blocks, chosen.modules)
    gates = Gates(model, found, chosen.granularity, chosen.estimator, chosen.init_prob)
    return MaskTrainer(gates, upper, data, chosen, seed, processes)


def validation(made: MaskTrainer) -> dict[str, float]:
    """Validate on the training data: enough for the loop's own laws."""
    upper, data = made.gradient.upper, made.data
    target = score(upper, data.target)
    return {
        "target_nll": float(target.mean_nll.mean()),
        "control_ratio": score(upper, data.control.batch).perplexity / VOCAB,
        "text_ratio": 1.0,
    }
