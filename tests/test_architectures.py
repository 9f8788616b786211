from __future__ import annotations

import pytest
import torch
from torch import nn

from knowsub.architectures import (
    ARCHITECTURES,
    ATTENTION,
    ModuleType,
    architecture,
    block_count,
    maskable_matrices,
    upper_half,
)
from tests.architectures import ALIKE, CONFIGS, tiny

ALL = sorted(CONFIGS | ALIKE)


def test_every_architecture_of_the_table_is_tested() -> None:
    assert sorted(ARCHITECTURES) == ALL
    assert not CONFIGS.keys() & ALIKE.keys()


@pytest.mark.parametrize("kind", ALL)
def test_matrices_cover_the_upper_half_attention_and_mlp_weights_and_nothing_else(
    kind: str,
) -> None:
    model = tiny(kind)
    matrices = maskable_matrices(model)
    marked = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for matrix in matrices:
        matrix.view(marked[matrix.parameter]).add_(1.0)
    blocks = architecture(model).blocks
    for name, count in marked.items():
        upper = any(name.startswith(f"{blocks}.{index}.") for index in upper_half(model))
        expected = 1.0 if upper and count.ndim == 2 and "norm" not in name else 0.0
        assert (count == expected).all(), name


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("module_type", ATTENTION)
def test_the_slice_of_a_part_is_what_that_part_computes_with(
    kind: str, module_type: ModuleType
) -> None:
    model = tiny(kind)
    (matrix,) = maskable_matrices(model, [0], [module_type])
    spec = next(row for row in architecture(model).matrices if module_type in row.module_types)
    layer = model.get_submodule(f"{architecture(model).blocks}.0.{spec.path}")
    seen: dict[str, torch.Tensor] = {}
    layer.register_forward_hook(lambda _, inputs, output: seen.update(x=inputs[0], y=output))
    model(torch.arange(1, 9)[None])
    weight = matrix.view(layer.weight.detach())
    head, dim = matrix.axes.index("head"), matrix.axes.index("dim")
    by_head = weight.permute(head, dim, 3 - head - dim)
    x, y = seen["x"][0], seen["y"][0] - (0 if layer.bias is None else layer.bias)
    if module_type is ModuleType.OUTPUT:
        read = x.view(len(x), *by_head.shape[:2])
        torch.testing.assert_close(torch.einsum("thd,hdo->to", read, by_head), y)
    else:
        index = spec.module_types.index(module_type) if len(spec.module_types) > 1 else None
        torch.testing.assert_close(
            torch.einsum("ti,hdi->thd", x, by_head), by_hand(kind, y, index, by_head.shape)
        )


def by_hand(kind: str, y: torch.Tensor, index: int | None, shape: torch.Size) -> torch.Tensor:
    """Split a projection into matrices and heads the way the model's own forward does."""
    heads, size = shape[:2]
    if index is None:
        return y.view(len(y), heads, size)
    if kind == "phi3":  # queries of all heads, then keys and values of the grouped heads
        return y.split([4 * size, 2 * size, 2 * size], dim=-1)[index].view(len(y), heads, size)
    if kind == "gpt2":
        return y.chunk(3, dim=-1)[index].view(len(y), heads, size)
    return y.view(len(y), heads, 3 * size).split(size, dim=-1)[index]


def test_an_unknown_architecture_is_told_how_to_be_added() -> None:
    with pytest.raises(
        ValueError, match=r"'Linear' is not in the table .* ARCHITECTURES in knowsub"
    ):
        architecture(nn.Linear(2, 2))


def test_a_block_beyond_the_model_is_named() -> None:
    model = tiny("gpt2")
    assert block_count(model) == 4
    with pytest.raises(ValueError, match="block 4 does not exist: the model has blocks 0 to 3"):
        maskable_matrices(model, [2, 4])


def test_a_choice_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no maskable matrix"):
        maskable_matrices(tiny("gpt2"), [3], [ModuleType.MLP_GATE])
