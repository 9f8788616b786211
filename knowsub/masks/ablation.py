"""Removes a critical subnetwork from a model, or keeps it alone, within a `with` block or for good.

Inside the block the model computes with other tensors in place of its parameters; afterwards it has
its own again, untouched, also after an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from knowsub.architectures import (
    MaskableMatrix,
    ModuleType,
    architecture,
    block_count,
    maskable_matrices,
)
from knowsub.masks.mask import Mask

EMBEDDING = "embedding"
"""Name of the input embedding among the maskable matrices."""


def input_embedding(model: nn.Module) -> MaskableMatrix:
    """Return the input embedding as a maskable matrix, a row per token.

    Where the LM head shares its weights, the head keeps them whatever is removed from the input.
    """
    module = model.get_input_embeddings()  # type: ignore[operator]
    weight = getattr(module, "base_layer", module).weight  # an adapter of `peft` may lie on top
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return MaskableMatrix(
        EMBEDDING, names[id(weight)], -1, None, tuple(weight.shape), None, ("in", "out")
    )


def chosen_matrices(
    model: nn.Module,
    block_range: Callable[[int], range],
    module_types: Sequence[ModuleType],
    embeddings: bool,
) -> tuple[MaskableMatrix, ...]:
    """Return the matrices of some blocks, before them the input embedding where it is wanted.

    `block_range` gives the 0-based indices of the blocks of a model with so many (errors: its own,
    and those of `maskable_matrices`).
    """
    matrices = maskable_matrices(model, block_range(block_count(model)), module_types)
    return (input_embedding(model), *matrices) if embeddings else matrices


def all_matrices(model: nn.Module) -> tuple[MaskableMatrix, ...]:
    """Return every matrix that a mask may cover: the input embedding and those of all blocks.

    Of a model with quantized blocks, those of the others.
    """
    return (input_embedding(model), *maskable_matrices(model, plain_blocks(model)))


def plain_blocks(model: nn.Module) -> list[int]:
    """Return the 0-based indices of the blocks whose weights are not quantized."""
    blocks = model.get_submodule(architecture(model).blocks).children()
    whole = (all(each.is_floating_point() for each in block.parameters()) for block in blocks)
    return [index for index, plain in enumerate(whole) if plain]


def masked_matrices(matrices: Sequence[MaskableMatrix], mask: Mask) -> list[MaskableMatrix]:
    """Return the matrices that a mask covers.

    Args:
        matrices: The maskable matrices of the mask's model.
        mask: The mask.

    Returns:
        Those that the mask has bits for, in the order of `matrices`.

    Raises:
        ValueError: If the mask names a matrix that is not among them, or of another shape.
    """
    shapes = {matrix.name: matrix.shape for matrix in matrices}
    for name, bits in mask.bits.items():
        if name not in shapes:
            raise ValueError(f"the mask has matrix {name!r}, which the model lacks")
        if tuple(bits.shape) != shapes[name]:
            raise ValueError(
                f"matrix {name}: the mask has shape {tuple(bits.shape)}, the model {shapes[name]}"
            )
    return [matrix for matrix in matrices if matrix.name in mask.bits]


class ParameterSwap:
    """Tensors that stand in for some parameters of a model while `applied` is active.

    Args:
        model: The model; models that share its modules change with it.
        weights: Parameter name -> tensor of the same shape.

    Raises:
        AttributeError: If the model has no such parameter.
        ValueError: If a shape differs.
    """

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        # (the module's dict of parameters, key in it, tensor to put there)
        self._slots: list[tuple[dict[str, nn.Parameter | None], str, Tensor]] = []
        for name, tensor in weights.items():
            shape = model.get_parameter(name).shape
            if shape != tensor.shape:
                raise ValueError(f"{name}: shape {tuple(tensor.shape)} is not {tuple(shape)}")
            path, _, leaf = name.rpartition(".")
            self._slots.append((model.get_submodule(path)._parameters, leaf, tensor))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model compute with the tensors within the block.

        A backward pass through checkpointed activations must run inside the block as well.

        Yields:
            Nothing.
        """
        originals = [parameters[leaf] for parameters, leaf, _ in self._slots]
        try:
            for parameters, leaf, tensor in self._slots:
                parameters[leaf] = tensor  # type: ignore[assignment]
            yield
        finally:
            for (parameters, leaf, _), original in zip(self._slots, originals, strict=True):
                parameters[leaf] = original


def applied(model: nn.Module, weights: Mapping[str, Tensor]) -> AbstractContextManager[None]:
    """Return a block in which a model computes with other tensors (errors: `ParameterSwap`)."""
    return ParameterSwap(model, weights).applied()


@torch.no_grad()
def remaining_weights(
    model: nn.Module, matrices: Sequence[MaskableMatrix], mask: Mask, *, keep: bool = False
) -> dict[str, Tensor]:
    """Return the parameters of a model with a critical subnetwork removed, as new tensors.

    Args:
        model: The original model.
        matrices: The maskable matrices; the mask's matrices must be among them.
        mask: The critical subnetwork.
        keep: If true, the subnetwork is kept and the other maskable weights are removed instead.

    Returns:
        Parameter name -> tensor, for the parameters that hold a masked matrix.

    Raises:
        ValueError: If the mask has a matrix that the model lacks, or of another shape.
    """
    weights: dict[str, Tensor] = {}
    for matrix in masked_matrices(matrices, mask):
        if matrix.parameter not in weights:
            weights[matrix.parameter] = model.get_parameter(matrix.parameter).detach().clone()
        view, bits = matrix.view(weights[matrix.parameter]), mask.bits[matrix.name]
        view.masked_fill_((~bits if keep else bits).to(view.device), 0.0)
    return weights


def ablated(
    model: nn.Module, matrices: Sequence[MaskableMatrix], mask: Mask
) -> AbstractContextManager[None]:
    """Return a block in which a model is the remaining model (errors: `remaining_weights`)."""
    return applied(model, remaining_weights(model, matrices, mask))


def only_subnetwork(
    model: nn.Module, matrices: Sequence[MaskableMatrix], mask: Mask
) -> AbstractContextManager[None]:
    """Return a block in which the subnetwork is all that is left of a model's maskable weights."""
    return applied(model, remaining_weights(model, matrices, mask, keep=True))


@torch.no_grad()
def ablate_(model: nn.Module, matrices: Sequence[MaskableMatrix], mask: Mask) -> None:
    """Set the weights of a critical subnetwork to zero, in place (errors: `remaining_weights`).

    An LM head that shares its weights with a masked input embedding keeps them, as its own.
    """
    if EMBEDDING in mask.bits:
        _untie(model)
    for matrix in masked_matrices(matrices, mask):
        view = matrix.view(model.get_parameter(matrix.parameter))
        view.masked_fill_(mask.bits[matrix.name].to(view.device), 0.0)


def _untie(model: nn.Module) -> None:
    """Give an LM head that shares the weights of the input embedding weights of its own."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    if head.weight is model.get_input_embeddings().weight:  # type: ignore[operator]
        head.weight = nn.Parameter(head.weight.detach().clone(), head.weight.requires_grad)
        model.config.tie_word_embeddings = False  # type: ignore[union-attr]
