from functools import partial

import pytest
import torch

from knowsub.architectures import ModuleType, maskable_matrices
from knowsub.baselines.methods import input_norms, wanda_scores
from knowsub.lm.batch import Batch
from knowsub.lm.blocks import cache_lower_states, upper_blocks
from tests.architectures import VOCAB, tiny


def record_input(
    inputs_of: dict[str, torch.Tensor], name: str, _: object, inputs: tuple[torch.Tensor, ...]
) -> None:
    inputs_of[name] = inputs[0]


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama", "phi3"])
def test_scores_are_weights_times_the_norm_of_their_input(kind: str) -> None:
    model = tiny(kind)
    tokens = torch.randint(1, VOCAB, (4, 6), generator=torch.Generator().manual_seed(0))
    target_mask = torch.zeros_like(tokens, dtype=torch.bool)
    target_mask[:, 3] = True
    batch, upper = cache_lower_states(model, 2, Batch(tokens, target_mask)), upper_blocks(model, 2)
    inputs_of: dict[str, torch.Tensor] = {}
    for matrix in maskable_matrices(model):
        module = model.get_submodule(matrix.parameter.removesuffix(".weight"))
        module.register_forward_pre_hook(partial(record_input, inputs_of, matrix.parameter))
    scores = wanda_scores(model, upper, maskable_matrices(model), batch)
    for matrix in maskable_matrices(model):
        states = inputs_of[matrix.parameter][:, :4].flatten(0, 1)
        norm = states.square().sum(dim=0).sqrt()
        weight = matrix.view(model.get_parameter(matrix.parameter))
        if matrix.module_type == ModuleType.OUTPUT and kind == "gpt2":
            expected = weight.abs() * norm.view(4, 4, 1)
        elif "in" in matrix.axes:
            shape = [-1 if axis == "in" else 1 for axis in matrix.axes]
            expected = weight.abs() * norm.view(shape)
        else:
            expected = weight.abs() * norm.view(1, 4, -1)
        assert torch.allclose(scores[matrix.name], expected, atol=1e-5)


def test_positions_after_the_last_target_position_do_not_count() -> None:
    model = tiny("gpt2")
    tokens = torch.randint(1, VOCAB, (4, 6), generator=torch.Generator().manual_seed(0))
    target_mask = torch.zeros_like(tokens, dtype=torch.bool)
    target_mask[:, 2] = True
    other = tokens.clone()
    other[:, 3:] = 7
    upper, names = upper_blocks(model, 2), {maskable_matrices(model)[0].parameter}
    first, second = (
        input_norms(model, upper, names, cache_lower_states(model, 2, Batch(row, target_mask)))
        for row in (tokens, other)
    )
    for name in names:
        assert torch.allclose(first[name], second[name], atol=1e-5)
