from __future__ import annotations

import copy

import pytest
import torch
from torch.func import functional_call
from transformers import GPT2LMHeadModel

from knowsub.discovery.distinction import Distinction, spread
from knowsub.masks.ablation import EMBEDDING, ablate_, ablated, all_matrices
from knowsub.masks.gates import GateSample
from knowsub.masks.mask import Mask
from tests.discovery.setting import search, statements


@pytest.fixture
def frozen(tiny_gpt2: GPT2LMHeadModel) -> GPT2LMHeadModel:
    """The small GPT-2, its parameters needing no gradient."""
    tiny_gpt2.requires_grad_(False)
    return tiny_gpt2


def test_the_spread_is_the_variance_of_the_states_at_the_ends_of_the_prompts(
    frozen: GPT2LMHeadModel,
) -> None:
    batch = statements(3, 7, 1)
    ends = batch.target_mask.int().argmax(dim=1).tolist()
    plain = [
        frozen.transformer(batch.tokens[row : row + 1], output_hidden_states=True).hidden_states
        for row in range(3)
    ]
    for block, value in enumerate(spread(frozen, batch).tolist()):
        states = torch.stack([plain[row][block + 1][0, end] for row, end in enumerate(ends)])
        assert value == pytest.approx(float(states.var(dim=0, correction=0).sum()), rel=1e-4)


def test_the_original_has_a_distinction_of_one_and_equal_statements_have_none(
    frozen: GPT2LMHeadModel,
) -> None:
    batch, rows = statements(4, 7, 1), torch.arange(4)
    assert float(Distinction(frozen, batch, [rows], 4).loss(frozen, rows)) == pytest.approx(1)
    same = batch[torch.tensor([0, 0, 1])]
    term = Distinction(frozen, same, [torch.arange(3)], 2)
    assert float(term.loss(frozen, torch.tensor([0, 1]))) == pytest.approx(0, abs=1e-8)


def test_rows_are_of_one_template_family(frozen: GPT2LMHeadModel) -> None:
    families = [torch.tensor([0, 2]), torch.tensor([1, 3])]
    term = Distinction(frozen, statements(4, 7, 1), families, 2)
    order = torch.Generator().manual_seed(0)
    drawn = {tuple(sorted(term.draw(order).tolist())) for _ in range(20)}
    assert drawn == {(0, 2), (1, 3)}
    with pytest.raises(ValueError, match="no template family has two target statements"):
        Distinction(frozen, statements(4, 7, 1), [], 2)


def test_its_gradient_is_the_one_of_the_plain_model_embeddings_included() -> None:
    weights = {"control_weight": 0.0, "neighborhood_weight": 0.0, "text_weight": 0.0}
    trainer = search(embeddings=True, distinction_weight=2.0, suppression_weight=0.0, **weights)
    gates, model, term = trainer.gates, trainer.gates.model, trainer.gradient.distinction
    assert term is not None
    assert gates.matrices[0].name == EMBEDDING
    value = (torch.arange(len(gates.logits)) % 3 == 0).float()
    gate = value.clone().requires_grad_(True)
    tied = model.transformer.wte.weight
    names = dict(model.named_parameters())
    changed = {}
    for each in gates.slices:
        name = each.matrix.parameter
        original = names[name].detach()
        where = each.matrix.view(torch.arange(original.numel()).view(original.shape)).reshape(-1)
        flat = torch.zeros(original.numel()).index_add(0, where, each.take(gate).reshape(-1))
        own = changed.get(name, original)
        changed[name] = own * (1 - flat.view(original.shape))
    rows = torch.tensor([0, 2])
    batch = term.target[rows].trimmed()
    out = functional_call(
        model.transformer,
        {name.removeprefix("transformer."): tensor for name, tensor in changed.items()},
        (batch.tokens,), {"output_hidden_states": True},
    )  # fmt: skip
    states = torch.stack([block[batch.first_targets] for block in out.hidden_states[1:]])
    variance = states.var(dim=1, correction=0).sum(dim=1)
    expected_loss = (variance / term.original[0]).mean()
    (expected,) = torch.autograd.grad(2.0 * expected_loss, gate)

    sample = GateSample(value.clone(), torch.ones_like(value))
    terms, grad = trainer.gradient(sample, {"distinction": rows})
    assert float(terms["distinction"]) == pytest.approx(float(expected_loss.detach()), rel=1e-4)
    assert torch.allclose(grad, expected, atol=1e-5, rtol=1e-3)
    assert model.transformer.wte.weight is tied


def test_removed_embeddings_are_still_read_by_the_head_in_place_or_swapped(
    frozen: GPT2LMHeadModel,
) -> None:
    matrices = all_matrices(frozen)
    bits = torch.zeros(matrices[0].shape, dtype=torch.bool)
    bits[5] = True
    mask, tokens = Mask({EMBEDDING: bits}, "m"), torch.tensor([[5, 7, 5]])
    head = frozen.lm_head.weight.detach().clone()
    removed = copy.deepcopy(frozen)
    ablate_(removed, all_matrices(removed), mask)
    assert removed.transformer.wte.weight[5].abs().sum() == 0
    assert torch.equal(removed.lm_head.weight, head)
    with ablated(frozen, matrices, mask):
        swapped = frozen(tokens).logits
    assert torch.allclose(removed(tokens).logits, swapped, atol=1e-6)
    assert frozen.lm_head.weight is frozen.transformer.wte.weight
