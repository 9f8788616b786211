"""A complete small search: a random model, random sequences, default-like options."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from knowsub.architectures import block_count, maskable_matrices
from knowsub.config import load_params
from knowsub.discovery.distributed import ProcessGroup
from knowsub.discovery.ignorance import measure_ignorance
from knowsub.discovery.options import Suppression, TrainOptions
from knowsub.discovery.step import TrainingData
from knowsub.discovery.teacher import cache_teacher, cache_teacher_states
from knowsub.discovery.trainer import MaskTrainer
from knowsub.lm.batch import Batch
from knowsub.lm.blocks import Allocate, cache_lower_states, in_memory, upper_blocks
from knowsub.lm.score import score
from knowsub.masks.ablation import input_embedding
from knowsub.masks.gates import Gates
from tests.architectures import VOCAB, tiny

DEFAULTS = load_params(path=Path(__file__).parents[2] / "params.yaml").train


def options(**changes: object) -> TrainOptions:
    """Return options that are like the default's; what a test does not name is the default's."""
    values: dict[str, object] = {
        "init_prob": 0.3, "steps": 6, "lr": 0.3, "warmup": 0.2, "decay": 0.0,
        "suppression": Suppression.UNIFORM, "suppression_weight": 1.5, "control_weight": 1.0,
        "text_weight": 0.7, "neighborhood_weight": 0.6, "neighborhood_batch": 3,
        "distinction_batch": 2, "sparsity_weight_start": 2.0, "sparsity_weight_end": 3.0,
        "target_density": 0.0, "max_density": 0.2, "target_batch": 3, "control_batch": 5,
        "text_batch": 2, "block_tokens": 8, "evaluate_every": 2, "checkpoint_every": 2,
        "max_control_ratio": 1.5, "max_text_ratio": 1.5,
    }  # fmt: skip
    return replace(DEFAULTS, **(values | changes))  # type: ignore[arg-type]


def statements(count: int, width: int, seed: int, n_targets: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, VOCAB, (count, width), generator=generator)
    target_mask = torch.zeros_like(tokens, dtype=torch.bool)
    for row in range(count):
        end = width - row % 3
        tokens[row, end:] = 0
        target_mask[row, end - n_targets - 1 : end - 1] = True
    return Batch(tokens, target_mask)


def text(count: int, width: int, seed: int) -> Batch:
    tokens = torch.randint(1, VOCAB, (count, width), generator=torch.Generator().manual_seed(seed))
    target_mask = torch.ones_like(tokens, dtype=torch.bool)
    target_mask[:, -1] = False
    return Batch(tokens, target_mask)


def search(
    seed: int = 0,
    n_targets: int = 1,
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
    first = -1 if chosen.embeddings else blocks.start
    upper = upper_blocks(model, first)

    def encode(batch: Batch) -> Batch:
        return cache_lower_states(model, first, batch, allocate=allocate)

    target = encode(statements(4, 7, 1, n_targets))
    control = encode(statements(9, 9, 2, n_targets))
    teacher = partial(cache_teacher, upper, precision=chosen.precision, allocate=allocate)
    matched = torch.tensor([3, 3, 8, 0])
    data = TrainingData(
        target=target,
        control=teacher(control),
        neighborhood=teacher(encode(statements(5, 8, 4, n_targets))),
        n_neighborhood=3,
        text=teacher(encode(text(4, 8, 3))),
        ignorance=measure_ignorance(
            upper, target, cache_teacher_states(upper, control), lambda zscores, columns: matched
        ),
        target_families=(torch.tensor([0, 2]), torch.tensor([1, 3])),
    )
    matrices = maskable_matrices(model, blocks, chosen.modules)
    if chosen.embeddings:
        matrices = (input_embedding(model), *matrices)
    shards = (processes or ProcessGroup()).shards(chosen.shards)
    how = (chosen.granularity, chosen.estimator, chosen.init_prob, shards)
    gates = Gates(model, matrices, *how)
    return MaskTrainer(gates, upper, data, chosen, seed, processes)


def validation(trainer: MaskTrainer) -> dict[str, float]:
    """Validate on the training data, which is enough to test the loop."""
    upper, data = trainer.gradient.upper, trainer.data
    return {
        "target_nll": float(score(upper, data.target).mean_nll.mean()),
        "control_ratio": score(upper, data.control.batch).perplexity / VOCAB,
        "text_ratio": 1.0,
    }


def launched(program: str, count: int, *given: str) -> list[subprocess.CompletedProcess[str]]:
    """Run a program in several processes, as a launcher does, and wait for them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", program, *given],
            env=os.environ | shared | {"RANK": str(rank), "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).parents[2],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(count)
    ]
    done = [process.communicate(timeout=900) for process in started]
    return [
        subprocess.CompletedProcess([], process.returncode, *texts)
        for process, texts in zip(started, done, strict=True)
    ]
