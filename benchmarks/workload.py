"""Workload W: GPT-2-small shape, weight masks on the upper half, short statements and text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from knowsub.anatomy import Part, block_count, sites
from knowsub.discovery.data import TrainingData
from knowsub.discovery.ignorance import ignorance
from knowsub.discovery.options import Matmul, Precision, Suppression, TrainOptions
from knowsub.discovery.reference import recall, remember
from knowsub.discovery.trainer import Search
from knowsub.lm.encode import Batch
from knowsub.lm.trunk import drop_lower, push, upper_blocks
from knowsub.masks.kinds import Estimator, Unit
from knowsub.masks.model import Gates


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
        return GPT2LMHeadModel(config).eval().requires_grad_(False)


def batches(shape: Shape, device: torch.device | str = "cpu") -> list[Batch]:
    """Return random target statements, control statements and text blocks on a device."""
    generator = torch.Generator().manual_seed(0)

    def tokens(rows: int, width: int) -> torch.Tensor:
        return torch.randint(shape.vocabulary, (rows, width), generator=generator)

    def told(rows: int) -> Batch:
        made = tokens(rows, shape.statement)
        reads = torch.zeros_like(made, dtype=torch.bool)
        reads[:, -2] = True
        return Batch(made, reads)

    text = tokens(shape.text, shape.block)
    reads = torch.ones_like(text, dtype=torch.bool)
    reads[:, -1] = False
    made = [told(shape.target), told(shape.control), Batch(text, reads)]
    return [batch.to(device) for batch in made]


def options(shape: Shape, steps: int = 1000, **changes: object) -> TrainOptions:
    """Return the paper's settings on the workload's batch sizes."""
    chosen = TrainOptions(
        unit=Unit.WEIGHT, estimator=Estimator.GUMBEL_SIGMOID, blocks="upper_half",
        parts=list(Part), initial=0.45, temperature=1.0, noise_end=1.0, noise_begin=1.0,
        steps=steps, lr=0.2, warmup=0.1, decay=0.0, suppression=Suppression.UNIFORM,
        suppression_weight=1.5, shifted=True, trace_weight=0.0, maintenance_weight=1.0,
        near_weight=0.0, text_weight=1.0, expression_weight=0.0, sparsity_start=2.0,
        sparsity_end=3.0, sparsity_begin=0.5, aim_density=0.0, max_density=1.0,
        target_batch=shape.target, control_batch=shape.control, near_batch=1, untold_share=0.5,
        text_batch=shape.text, block_tokens=shape.block, accumulate=1, recompute=False,
        precision=Precision.FLOAT32, matmul=Matmul.DEFAULT, evaluate_every=steps,
        checkpoint_every=steps, max_control_ratio=1e9, max_text_ratio=1e9,
    )  # fmt: skip
    return replace(chosen, **changes)  # type: ignore[arg-type]


def search(model: PreTrainedModel, shape: Shape, **changes: object) -> Search:
    """Return a search over the upper half of the model on the workload."""
    chosen = options(shape, **changes)
    blocks = chosen.block_range(block_count(model))
    upper = upper_blocks(model, blocks.start)
    target, control, text = (push(model, blocks.start, batch) for batch in batches(shape))
    kept = partial(remember, upper, precision=chosen.precision)
    unknown = ignorance(
        upper, target, recall(upper, control), lambda table: torch.arange(len(target))
    )
    drop_lower(model, blocks.start)
    data = TrainingData(target, kept(control), None, 0, kept(text), unknown)
    gates = Gates(model, sites(model, blocks), initial=chosen.initial)
    return Search(gates, upper, data, chosen, seed=0)
