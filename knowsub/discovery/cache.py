"""Room for frozen states: memory up to a limit, and files mapped into memory beyond it."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

SHARE = 0.5
"""Share of the memory that a stage may plan with which frozen states may take [fraction]."""


class Cache:
    """Gives out tensors to write frozen states into; made anew for every search.

    A file has no name once it is mapped: nothing else ever reads it, and it is gone when the
    process ends, however that happens.

    Args:
        folder: Where the files lie, on a disk with room; made if there is none.
        memory_gb: Memory that the stage may plan with [GB].
    """

    def __init__(self, folder: Path, memory_gb: float) -> None:
        self.folder = folder
        self.left = int(SHARE * memory_gb * 1e9)

    def __call__(self, size: Sequence[int], like: Tensor) -> Tensor:
        """Return an uninitialised tensor.

        Args:
            size: Its shape.
            like: A tensor of its dtype, and of its device while there is memory left.

        Returns:
            A tensor in memory, or on the CPU in a mapped file once the limit is reached.

        Raises:
            OSError: If the file cannot be made.
        """
        needed = math.prod(size) * like.element_size()
        if needed <= self.left:
            self.left -= needed
            return like.new_empty(tuple(size))
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="states-", dir=self.folder)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, 0, max(1, needed))
            mapped = torch.from_file(name, shared=True, size=math.prod(size), dtype=like.dtype)
        finally:
            os.close(handle)
            Path(name).unlink()
        return mapped.view(tuple(size))
