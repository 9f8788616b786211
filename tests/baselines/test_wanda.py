from functools import partial

import pytest
import torch

from knowsub.architectures import ModuleType, maskable_matrices
from knowsub.baselines.wanda import input_norms, wanda_scores
from knowsub.lm.batch import Batch
from knowsub.lm.blocks import cache_lower_states, upper_blocks
from tests.architectures import VOCAB, tiny


def remember(
    seen: dict[str, torch.Tensor], name: str, _: object, inputs: tuple[torch.Tensor, ...]
) -> None:
    seen[name] = inputs[0]


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama"])
def test_scores_are_weights_times_the_norm_of_what_they_read(kind: str) -> None:
    model = tiny(kind)
    tokens = torch.randint(1, VOCAB, (4, 6), generator=torch.Generator().manual_seed(0))
    reads = torch.zeros_like(tokens, dtype=torch.bool)
    reads[:, 3] = True
    batch, upper = cache_lower_states(model, 2, Batch(tokens, reads)), upper_blocks(model, 2)
    seen: dict[str, torch.Tensor] = {}
    for site in maskable_matrices(model):
        module = model.get_submodule(site.parameter.removesuffix(".weight"))
        module.register_forward_pre_hook(partial(remember, seen, site.parameter))
    scores = wanda_scores(model, upper, maskable_matrices(model), batch)
    for site in maskable_matrices(model):
        states = seen[site.parameter][:, :4].reshape(-1, seen[site.parameter].shape[-1])
        norm = states.square().sum(dim=0).sqrt()
        weight = site.view(model.get_parameter(site.parameter))
        if site.module_type == ModuleType.OUTPUT and kind == "gpt2":
            expected = weight.abs() * norm.view(4, 4, 1)
        elif "in" in site.axes:
            shape = [-1 if axis == "in" else 1 for axis in site.axes]
            expected = weight.abs() * norm.view(shape)
        else:
            expected = weight.abs() * norm.view(1, 4, -1)
        assert torch.allclose(scores[site.name], expected, atol=1e-5)


def test_positions_after_the_last_read_one_do_not_count() -> None:
    model = tiny("gpt2")
    tokens = torch.randint(1, VOCAB, (4, 6), generator=torch.Generator().manual_seed(0))
    reads = torch.zeros_like(tokens, dtype=torch.bool)
    reads[:, 2] = True
    other = tokens.clone()
    other[:, 3:] = 7
    upper, names = upper_blocks(model, 2), {maskable_matrices(model)[0].parameter}
    first, second = (
        input_norms(model, upper, names, cache_lower_states(model, 2, Batch(one, reads)))
        for one in (tokens, other)
    )
    for name in names:
        assert torch.allclose(first[name], second[name], atol=1e-5)
