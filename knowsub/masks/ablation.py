"""Removing a critical subnetwork, or keeping it alone, in the plain weights of a model.

Which network runs is a value given for a `with` block, never a flag: inside the block the model
computes with other weights, after it with its own, untouched, whatever happened in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from knowsub.architectures import MaskableMatrix
from knowsub.masks.mask import Mask


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
    """Tensors that a model computes with in place of some parameters, when it is told to.

    Args:
        model: The model; models that share its modules change with it.
        weights: Parameter name -> tensor of the same shape.

    Raises:
        AttributeError: If the model has no such parameter.
        ValueError: If a shape differs.
    """

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        self._places: list[tuple[dict[str, nn.Parameter | None], str, Tensor]] = []
        for name, tensor in weights.items():
            own = model.get_parameter(name)
            if own.shape != tensor.shape:
                raise ValueError(f"{name}: shape {tuple(tensor.shape)} is not {tuple(own.shape)}")
            path, _, leaf = name.rpartition(".")
            self._places.append((model.get_submodule(path)._parameters, leaf, tensor))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model compute with the tensors within the block.

        A backward pass through checkpointed activations must run inside the block as well.

        Yields:
            Nothing.
        """
        before = [store[leaf] for store, leaf, _ in self._places]
        try:
            for store, leaf, tensor in self._places:
                store[leaf] = tensor  # type: ignore[assignment]
            yield
        finally:
            for (store, leaf, _), own in zip(self._places, before, strict=True):
                store[leaf] = own


def applied(model: nn.Module, weights: Mapping[str, Tensor]) -> AbstractContextManager[None]:
    """Return a block in which a model computes with other tensors; see `Replacement`."""
    return ParameterSwap(model, weights).applied()


def remaining_weights(
    model: nn.Module, sites: Sequence[MaskableMatrix], mask: Mask, *, keep: bool = False
) -> dict[str, Tensor]:
    """Return the parameters of a model with a critical subnetwork removed, as new tensors.

    Args:
        model: The original model.
        sites: The maskable matrices; the mask's sites must be among them.
        mask: The critical subnetwork.
        keep: If true, the subnetwork is kept and the other maskable weights are removed instead.

    Returns:
        Parameter name -> tensor, for the parameters that hold a masked site.

    Raises:
        ValueError: If the mask names a site that the model lacks, or of another shape.
    """
    weights: dict[str, Tensor] = {}
    with torch.no_grad():
        for site in masked_matrices(sites, mask):
            if site.parameter not in weights:
                weights[site.parameter] = model.get_parameter(site.parameter).detach().clone()
            view = site.view(weights[site.parameter])
            bits = mask.bits[site.name].to(view.device)
            view.masked_fill_(~bits if keep else bits, 0.0)
    return weights


@contextmanager
def ablated(model: nn.Module, sites: Sequence[MaskableMatrix], mask: Mask) -> Iterator[None]:
    """Let a model compute as the remaining model within the block (errors: `remaining_weights`)."""
    with applied(model, remaining_weights(model, sites, mask)):
        yield


@contextmanager
def only_subnetwork(
    model: nn.Module, sites: Sequence[MaskableMatrix], mask: Mask
) -> Iterator[None]:
    """Let a model compute with the subnetwork as its only maskable weights, within the block."""
    with applied(model, remaining_weights(model, sites, mask, keep=True)):
        yield


@torch.no_grad()
def ablate_(model: nn.Module, sites: Sequence[MaskableMatrix], mask: Mask) -> None:
    """Set the weights of a critical subnetwork to zero, for good (errors: `remaining_weights`)."""
    for name, tensor in remaining_weights(model, sites, mask).items():
        model.get_parameter(name).copy_(tensor)
