"""The mask artefact: a sealed safetensors file of packed bits."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from knowsub.masks.mask import Mask
from knowsub.masks.packing import pack, unpack
from knowsub.sealed import read_sealed, write_sealed

FORMAT = "knowsub-mask-1"


def save_mask(mask: Mask, path: Path) -> None:
    """Write a mask, eight weights to the byte, atomically; the same mask gives the same bytes.

    Args:
        mask: The mask.
        path: File to write; its folder must exist.

    Raises:
        OSError: If the file cannot be written; an older file is left as it was.
    """
    packed = {name: pack(bits.flatten()).numpy() for name, bits in mask.bits.items()}
    shapes = {name: list(bits.shape) for name, bits in mask.bits.items()}
    described = {"format": FORMAT, "model": mask.model, "shapes": shapes, "meta": dict(mask.meta)}
    write_sealed(path, packed, described)


def load_mask(path: Path) -> Mask:
    """Read a mask, or refuse it.

    Args:
        path: A file written by `save_mask`.

    Returns:
        The mask, equal to the one written.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no mask file, is truncated, or does not match its checksum.
    """
    packed, described = read_sealed(path)
    found = described.get("format") if isinstance(described, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path}: format {found!r}; this version reads {FORMAT!r}")
    try:
        shapes = described["shapes"].items()
        bits = {name: _unpack(packed[name], shape) for name, shape in shapes}
        return Mask(bits, str(described["model"]), dict(described["meta"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: no mask, though its seal holds ({error})") from None


def check_model(mask: Mask, fingerprint: str) -> None:
    """Refuse a mask that belongs to another model.

    Args:
        mask: The mask.
        fingerprint: Fingerprint of the model at hand.

    Raises:
        ValueError: If the mask was made for another model.
    """
    if mask.model != fingerprint:
        raise ValueError(
            f"the mask belongs to model {mask.model[:12]}, this is model {fingerprint[:12]}"
        )


def _unpack(packed: NDArray[np.uint8], shape: list[int]) -> Tensor:
    size = math.prod(shape)
    if min(shape, default=0) < 0 or packed.shape != (-(-size // 8),):
        raise ValueError(f"{packed.size} bytes for a matrix of shape {shape}")
    return unpack(torch.from_numpy(packed), size).view(shape)
