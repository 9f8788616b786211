"""Low-rank updates (LoRA, Hu et al. 2022) of the matrices of a model's blocks."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from knowsub.lm.nf4 import matrix_modules

ADAPTER = "default"
"""Name that PEFT knows the updates by."""


def add_lora(model: nn.Module, blocks: Iterable[int], rank: int, seed: int) -> None:
    """Add low-rank updates, scaled by 2 (alpha = twice the rank), to every matrix of some blocks.

    They alone are trained. The random state outside is as before.

    Args:
        model: The model, changed in place.
        blocks: 0-based indices of the blocks.
        rank: Rank of the updates.
        seed: Seed of their first matrices; the second ones are zero.
    """
    from peft import LoraConfig, inject_adapter_in_model  # seconds to import, needed here only

    modules = matrix_modules(model, blocks)
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=modules,
        fan_in_fan_out=isinstance(model.get_submodule(modules[0]), Conv1D),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, adapter_name=ADAPTER)
