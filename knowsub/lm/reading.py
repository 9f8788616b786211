"""The last block's MLP at the positions that are read, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from knowsub.anatomy import Part, family
from knowsub.lm.placing import beside, places


@contextmanager
def only_read(
    model: PreTrainedModel, reads: Bool[Tensor, "*position"]
) -> Iterator[Int[Tensor, " read"]]:
    """Compute the last block's MLP at the read positions alone, within the block.

    No other position looks at them: what the model returns there is of no use.

    Args:
        model: A Hugging Face decoder of a known family, whole or its upper part.
        reads: The positions that are read of the sequences that run within the block, in their
            order, of any shape; on the CPU, so that no GPU is waited for.

    Yields:
        The read positions, counted through the batch row by row, where the model is.

    Raises:
        ValueError: If the architecture is unknown.
    """
    row, rows = family(model), beside(places(reads), next(model.parameters()))
    last = list(model.get_submodule(row.blocks).children())[-1]

    shape = reads.shape

    def narrow(_: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
        nonlocal shape
        shape = args[0].shape[:-1]
        few: Tensor = args[0].flatten(0, -2).index_select(0, rows)
        return few

    def widen(_: nn.Module, __: tuple[Tensor, ...], told: Tensor) -> Tensor:
        everywhere = told.new_zeros(reads.numel(), told.shape[-1])
        everywhere.index_copy_(0, rows, told)
        return everywhere.view(*shape, -1)

    handles = []
    for matrix in row.matrices:
        part, linear = matrix.parts[0], last.get_submodule(matrix.path)
        if part in (Part.MLP_IN, Part.MLP_GATE):
            handles.append(linear.register_forward_pre_hook(narrow))
        elif part is Part.MLP_OUT:
            handles.append(linear.register_forward_hook(widen))
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()
