"""Bits, eight to the byte."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor


def pack(bits: Bool[Tensor, " bit"]) -> UInt8[Tensor, " byte"]:
    """Return bits as bytes on the CPU, the first bit highest, the last byte filled with zeros."""
    return torch.from_numpy(np.packbits(bits.cpu().numpy()))


def unpack(packed: UInt8[Tensor, " byte"], count: int) -> Bool[Tensor, " bit"]:
    """Return the first bits of what `pack` returned.

    Args:
        packed: The bytes, on the CPU.
        count: How many bits; bits beyond the last byte are zeros.

    Returns:
        The bits, on the CPU.
    """
    return torch.from_numpy(np.unpackbits(packed.numpy(), count=count).astype(bool))
