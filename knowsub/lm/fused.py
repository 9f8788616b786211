"""Activation functions by one kernel where Hugging Face writes them as a dozen operations."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import nn
from transformers.activations import FastGELUActivation, NewGELUActivation

Kind = TypeVar("Kind", bound=nn.Module)
FUSED: dict[type[nn.Module], Callable[[], nn.Module]] = {
    NewGELUActivation: lambda: nn.GELU(approximate="tanh"),
    FastGELUActivation: lambda: nn.GELU(approximate="tanh"),
}
"""Activation -> the module of torch that computes the same function, to rounding (2e-7 of it)."""


def fused(module: Kind) -> Kind:
    """Return a module that computes the same with fused activation functions.

    A GPT-2 as it is on the hub has such activations; unfused they keep four more tensors for the
    way back.

    Args:
        module: A module of any kind; it is left as it is.

    Returns:
        A shallow copy that shares every parameter and every part without such an activation, so
        that weights replaced in one are replaced in both; the module itself where there is none.
    """
    parts = {
        name: FUSED[type(part)]() if type(part) in FUSED else fused(part)
        for name, part in module.named_children()
    }
    if all(parts[name] is part for name, part in module.named_children()):
        return module
    twin = copy.copy(module)
    twin._modules = {**module._modules, **parts}
    return twin
