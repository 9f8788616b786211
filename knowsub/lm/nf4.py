"""Blocks whose matrices are kept in 4 bits, so that a large model stands on a small card.

nf4 (Dettmers et al. 2023, QLoRA) stores of each weight which of 16 quantiles of a normal
distribution it is nearest to, and of every 64 weights the largest magnitude. transformers and
bitsandbytes do it; needs the extra `nf4`. Such blocks are never masked: a mask is of plain numbers.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from knowsub.architectures import architecture


def matrix_modules(model: nn.Module, blocks: Iterable[int]) -> list[str]:
    """Return the paths of the modules that hold the matrices of some blocks, in nf4 or not."""
    row = architecture(model)
    return [f"{row.blocks}.{block}.{spec.path}" for block in blocks for spec in row.matrices]


def quantize(folder: Path, model: PreTrainedModel, blocks: range) -> PreTrainedModel:
    """Return a model with the matrices of some blocks in nf4, all else as it is.

    It is done on the CPU, so that everyone has the same codes, and read shard by shard.

    Args:
        folder: The model's folder, in full precision.
        model: The model as opened from it; its names and its dtype count.
        blocks: 0-based indices of the blocks, at least one and not all.

    Returns:
        Another model, on the CPU, to be written and opened again.

    Raises:
        ModuleNotFoundError: If the extra `nf4` is not installed.
        ValueError: If the architecture stores its matrices transposed (GPT-2), or another matrix
            than these would be quantized.
    """
    require_bitsandbytes(f"model {str(folder)!r}")
    wanted = matrix_modules(model, blocks)
    if isinstance(model.get_submodule(wanted[0]), Conv1D):
        raise ValueError(
            f"pretrain.nf4_blocks: not for model type {model.config.model_type!r}, whose matrices "
            "are stored transposed (Conv1D); allowed: none"
        )
    linear = [name for name, each in model.named_modules() if isinstance(each, nn.Linear)]
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=model.dtype,
        llm_int8_skip_modules=[name for name in linear if name not in set(wanted)],
    )
    quantized: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=model.dtype,
        quantization_config=settings,
        device_map={"": "cpu"},
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
    )
    if other := sorted({*quantized_modules(quantized)} ^ {*wanted}):
        should = "" if other[0] in wanted else "not "
        raise ValueError(f"model {str(folder)!r}: {other[0]} should {should}be in nf4")
    return quantized


def quantized_modules(model: nn.Module) -> list[str]:
    """Return the paths of a model's modules whose weights are in nf4."""
    return [name for name, each in model.named_modules() if _scales(each) is not None]


def quantized_blocks(model: nn.Module) -> list[int]:
    """Return the 0-based indices of a model's blocks that hold weights in nf4."""
    prefix = re.escape(architecture(model).blocks)
    found = (re.match(rf"{prefix}\.(\d+)\.", name) for name in quantized_modules(model))
    return sorted({int(match[1]) for match in found if match})


def _scales(module: nn.Module) -> Any:
    return getattr(module._parameters.get("weight"), "quant_state", None)


def is_nf4(folder: Path) -> bool:
    """Return whether a model's folder holds weights in nf4.

    Raises ModuleNotFoundError if it does and the extra `nf4` is not installed, ValueError if its
    weights are quantized in another way.
    """
    text = (folder / "config.json").read_text(encoding="utf-8")
    settings = json.loads(text).get("quantization_config")
    if not settings:
        return False
    if settings.get("bnb_4bit_quant_type") != "nf4" or not settings.get("load_in_4bit"):
        raise ValueError(
            f"model {str(folder)!r}: its weights are quantized ({settings.get('quant_method')}); "
            "allowed: plain weights, or nf4 of bitsandbytes below the masked blocks"
        )
    require_bitsandbytes(f"model {str(folder)!r}")
    return True


def require_bitsandbytes(what: str) -> None:
    """Raise a ModuleNotFoundError, which begins with `what`, without the extra `nf4`."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModuleNotFoundError(f"{what}: nf4 needs the extra nf4; pip install 'knowsub[nf4]'")


def compute_alike(model: nn.Module) -> None:
    """Let weights in nf4 be multiplied in the model's dtype on every CPU.

    On CPUs with bfloat16 products bitsandbytes would lay the codes out anew at the first forward
    pass, round the scales, and compute in bfloat16 whatever the dtype is.
    """
    for name in quantized_modules(model):
        cast(Any, model.get_submodule(name)).support_avx512bf16_for_cpu = False


def drop_quantized(part: nn.Module) -> None:
    """Free the codes and scales of a part of a model, for good, which `to("meta")` cannot."""
    for name in quantized_modules(part):
        module = part.get_submodule(name)
        _scales(module).to("meta")
        module.weight = nn.Parameter(torch.empty(0, device="meta"), requires_grad=False)


@torch.no_grad()
def dequantize_(model: PreTrainedModel) -> list[int]:
    """Turn weights in nf4 into the plain numbers that they stand for, in place.

    Args:
        model: A model with or without such weights.

    Returns:
        The blocks that held them; the model is an ordinary one afterwards.
    """
    blocks, names = quantized_blocks(model), quantized_modules(model)
    for name in names:
        module = cast(nn.Linear, model.get_submodule(name))
        plain = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(plain_weight(module).to(model.dtype), requires_grad=False)
        plain.bias = module.bias
        model.set_submodule(name, plain)
    if names:  # transformers would refuse to save what it calls quantized
        plain_model = cast(Any, model)
        plain_model.hf_quantizer = plain_model._weight_conversions = None
        plain_model.is_loaded_in_4bit = plain_model.is_quantized = False
        del model.config.quantization_config
    return blocks


def plain_weight(module: nn.Module) -> Tensor:
    """Return the matrix that a module's codes and scales stand for, in the dtype it had once."""
    from bitsandbytes.functional import dequantize_4bit  # the extra

    weight = module.get_parameter("weight")
    plain: Tensor = dequantize_4bit(weight.data, _scales(module))
    return plain
