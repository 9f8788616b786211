import math

import pytest
import torch

from knowsub.architectures import MaskableMatrix, maskable_matrices
from knowsub.evaluation.robustness import (
    block_logits,
    extracted,
    fake_quantize,
    fake_quantized_weights,
    logit_lens_hits,
    split_budget,
)
from knowsub.lm.batch import Batch
from tests.architectures import VOCAB, tiny
from tests.evaluation.setting import SUBJECTS, built_context, fact_mask


def test_rounding_by_hand() -> None:
    weight = torch.tensor([[7.0, -3.4, 0.4, 0.0], [0.7, 0.36, 0.0, -0.05]])
    expected = torch.tensor([[7.0, -3.0, 0.0, 0.0], [0.7, 0.4, 0.0, -0.0]])
    assert torch.allclose(fake_quantize(weight, (1,), 4), expected)


def test_a_channel_of_zeros_stays_zero() -> None:
    assert fake_quantize(torch.zeros(3, 2), (0,), 8).abs().sum() == 0


def n_channels(matrix: MaskableMatrix) -> int:
    sizes = zip(matrix.axes, matrix.shape, strict=True)
    return math.prod(size for axis, size in sizes if axis not in matrix.input_axes)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama", "phi3"])
def test_every_output_channel_has_few_levels_and_no_large_error(kind: str) -> None:
    model = tiny(kind)
    matrices = maskable_matrices(model, range(4))
    rounded = fake_quantized_weights(model, matrices, {}, 3)
    for matrix in matrices:
        before = matrix.view(model.get_parameter(matrix.parameter))
        after = matrix.view(rounded[matrix.parameter])
        inputs = [matrix.axes.index(axis) for axis in matrix.input_axes]
        outputs = [axis for axis in range(before.ndim) if axis not in inputs]
        channels = after.permute(*outputs, *inputs).reshape(n_channels(matrix), -1)
        assert all(len(channel.unique()) <= 7 for channel in channels)
        largest = before.abs().amax(dim=inputs, keepdim=True)
        assert bool(((before - after).abs() <= largest / 3 / 2 + 1e-6).all())


def test_removed_weights_stay_removed() -> None:
    model = tiny("gpt2")
    matrices = maskable_matrices(model, range(4))
    name = matrices[0].parameter
    removed = model.get_parameter(name).clone()
    removed[::2] = 0
    rounded = fake_quantized_weights(model, matrices, {name: removed}, 8)
    assert rounded[name][::2].abs().sum() == 0


@pytest.mark.parametrize(("budget", "blocks"), [(20, 4), (20, 12), (20, 48), (1, 3)])
def test_the_budget_is_spent_and_no_more(budget: int, blocks: int) -> None:
    counts = split_budget(budget, blocks)
    assert sum(counts) == budget
    assert max(counts) - min(counts) <= 1
    assert counts == sorted(counts)


def test_an_object_seen_in_any_block_is_a_hit() -> None:
    lower = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
    upper = torch.tensor([[0.0, 0.0, 5.0, 0.0], [9.0, 0.0, 0.0, 0.0]])
    tokens = torch.tensor([[0, 1, 2], [3, 0, 1]])
    hit = extracted((lower, upper), tokens, 2)
    assert hit.tolist() == [[True, False, True], [True, True, False]]


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama", "opt", "gemma2", "granite"])
def test_the_last_block_says_what_the_model_says(kind: str) -> None:
    model = tiny(kind)
    tokens = torch.randint(1, VOCAB, (3, 6), generator=torch.Generator().manual_seed(0))
    target_mask = torch.zeros_like(tokens, dtype=torch.bool)
    target_mask[:, 3:5] = True
    with torch.no_grad():
        expected = model(input_ids=tokens).logits[:, 3]
    logits = block_logits(model, Batch(tokens, target_mask))
    assert len(logits) == 4
    assert torch.allclose(logits[-1], expected, atol=1e-5)


def test_knowledge_is_read_off_the_original_and_gone_from_the_remaining_model() -> None:
    context = built_context("a")
    model, facts = context.encoder.model, context.sets["target"]
    assert logit_lens_hits(model, facts, 2).tolist() == [1.0] * 10
    a_subjects = [subject for subject in SUBJECTS if subject[0] == "a"]
    with context.ablated(fact_mask(model, a_subjects)):
        assert logit_lens_hits(model, facts, 2).sum() == 0
