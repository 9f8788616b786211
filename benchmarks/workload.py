"""Workload W: GPT-2-small shape, weight masks on the upper half, short statements and text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from knowsub.architectures import block_count, maskable_matrices
from knowsub.config import load_params
from knowsub.discovery.distributed import ProcessGroup
from knowsub.discovery.ignorance import measure_ignorance
from knowsub.discovery.options import Suppression, TrainOptions
from knowsub.discovery.step import TrainingData
from knowsub.discovery.teacher import cache_teacher, cache_teacher_states
from knowsub.discovery.trainer import MaskTrainer
from knowsub.lm.batch import Batch
from knowsub.lm.blocks import cache_lower_states, drop_lower, upper_blocks
from knowsub.masks.gates import Gates


@dataclass(frozen=True)
class Shape:
    """Size of a model and of its batches."""

    width: int = 768
    blocks: int = 12
    heads: int = 12
    vocabulary: int = 50257
    target: int = 16
    control: int = 32
    statement: int = 9
    text: int = 2
    block: int = 128


def build(shape: Shape, device: str = "cpu") -> PreTrainedModel:
    """Return a random model of the shape on a device, frozen, without dropout."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=shape.vocabulary, n_embd=shape.width, n_layer=shape.blocks, n_head=shape.heads,
        n_positions=1024, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    with torch.device(device):
        return cast(PreTrainedModel, GPT2LMHeadModel(config).eval().requires_grad_(False))


def batches(shape: Shape, device: torch.device | str = "cpu") -> list[Batch]:
    """Return random target statements, control statements and text blocks on a device."""
    generator = torch.Generator().manual_seed(0)

    def tokens(rows: int, width: int) -> torch.Tensor:
        return torch.randint(shape.vocabulary, (rows, width), generator=generator)

    def statements(rows: int) -> Batch:
        ids = tokens(rows, shape.statement)
        target_mask = torch.zeros_like(ids, dtype=torch.bool)
        target_mask[:, -2] = True
        return Batch(ids, target_mask)

    text = tokens(shape.text, shape.block)
    target_mask = torch.ones_like(text, dtype=torch.bool)
    target_mask[:, -1] = False
    batches = [statements(shape.target), statements(shape.control), Batch(text, target_mask)]
    return [batch.to(device) for batch in batches]


DEFAULTS = load_params(path=Path(__file__).parents[1] / "params.yaml").train


def options(shape: Shape, steps: int = 1000, **changes: Any) -> TrainOptions:
    """Return the paper's settings on the workload's batch sizes; the rest as in `params.yaml`."""
    chosen = replace(
        DEFAULTS, init_prob=0.45, noise_final=1.0, noise_decay_start=1.0, steps=steps, lr=0.2,
        warmup=0.1, decay=0.0, suppression=Suppression.UNIFORM, suppression_weight=1.5,
        control_weight=1.0, neighborhood_weight=0.0, text_weight=1.0, sparsity_weight_start=2.0,
        sparsity_weight_end=3.0, target_density=0.0, max_density=1.0, target_batch=shape.target,
        control_batch=shape.control, neighborhood_batch=1, text_batch=shape.text,
        block_tokens=shape.block, evaluate_every=steps, checkpoint_every=steps,
        max_control_ratio=1e9, max_text_ratio=1e9,
    )  # fmt: skip
    return replace(chosen, **changes)


def _in_order(zscores: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    return torch.arange(len(columns))


def search(model: PreTrainedModel, shape: Shape, **changes: Any) -> MaskTrainer:
    """Return a search over the upper half of the model on the workload; `processes` divide it."""
    processes: ProcessGroup | None = changes.pop("processes", None)
    chosen = options(shape, **changes)
    blocks = chosen.block_range(block_count(model))
    upper = upper_blocks(model, blocks.start)
    target, control, text = (
        cache_lower_states(model, blocks.start, batch) for batch in batches(shape)
    )
    teacher = partial(cache_teacher, upper, precision=chosen.precision)
    ignorance = measure_ignorance(upper, target, cache_teacher_states(upper, control), _in_order)
    drop_lower(model, blocks.start)
    data = TrainingData(target, teacher(control), None, 0, teacher(text), ignorance)
    shards = (processes or ProcessGroup()).shards(chosen.shards)
    matrices = maskable_matrices(model, blocks)
    gates = Gates(model, matrices, init_prob=chosen.init_prob, shards=shards)
    return MaskTrainer(gates, upper, data, chosen, 0, processes)
