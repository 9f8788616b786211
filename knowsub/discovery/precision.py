"""In which precision, and by which library, the matrix products of a step are computed.

Logits of gates, losses, gradients and the optimiser are float32 whatever is chosen here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from knowsub.discovery.options import Matmul, Precision

MOST_ERROR = 1e-5
"""Relative error above which a library's products do not count as float32 [fraction]."""


def matmul_autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Let matrix products of forward passes within the block be of a precision.

    Weights are cast once within a block, however many passes it holds; norms, softmax and the sums
    of the residual stream stay float32.

    Args:
        precision: The precision.
        device: Where the model is.

    Returns:
        The context; with `float32` it changes nothing.
    """
    if precision is Precision.FLOAT32:
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def cast_head(precision: Precision, head: nn.Linear) -> nn.Linear:
    """Return the LM head for products of a precision: a copy, so that it is cast but once.

    Args:
        precision: The precision.
        head: The LM head, which may share its weights with the embeddings.

    Returns:
        The head itself with `float32`.
    """
    if precision is Precision.FLOAT32:
        return head
    return copy.deepcopy(head).to(torch.bfloat16).requires_grad_(False)


def cast_frozen(
    precision: Precision, model: nn.Module, masked: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return the frozen parameters of linear layers for products of a precision, cast but once.

    Args:
        precision: The precision.
        model: Blocks of a decoder.
        masked: Its parameters that are left out.

    Returns:
        Parameter name -> copy; none with `float32`.
    """
    if precision is Precision.FLOAT32:
        return {}
    left_out = {id(parameter) for parameter in masked}
    return {
        f"{path}.{name}": own.to(torch.bfloat16)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        for name, own in module.named_parameters(recurse=False)
        if id(own) not in left_out
    }


@contextmanager
def matmul_backend(matmul: Matmul) -> Iterator[None]:
    """Let float32 products on the CPU be computed by another library within the block.

    Args:
        matmul: The library.

    Yields:
        Nothing.
    """
    if matmul is Matmul.DEFAULT:
        yield
        return
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


def require_exact(matmul: Matmul) -> None:
    """Refuse a library whose products are not those of float32 on this processor.

    Processors with AMX really compute in bfloat16 where oneDNN may choose.

    Args:
        matmul: The library.

    Raises:
        ValueError: If the relative error is too large; the message names the option.
    """
    if (error := product_error(matmul)) > MOST_ERROR:
        raise ValueError(
            f"train.matmul: value {matmul.value!r} is not allowed on this processor, its products "
            f"have a relative error of {error:.0e} (at most {MOST_ERROR:.0e}); use default"
        )


def product_error(matmul: Matmul) -> float:
    """Return the relative error of a library's float32 products on this processor [fraction]."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(256, 768, generator=generator)
    right = torch.randn(768, 512, generator=generator)
    with matmul_backend(matmul):
        found = left @ right
    expected = left.double() @ right.double()
    return float((found - expected).norm() / expected.norm())
