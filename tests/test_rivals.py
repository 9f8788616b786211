"""Objectives that change weights: each by hand, and the damage at which training is stopped."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import GPT2LMHeadModel

from knowsub.api import train_options
from knowsub.discovery.setup import SearchModel, build_validation
from knowsub.kg.facts import Role, Split
from knowsub.lm.batch import encode_statements
from knowsub.lm.identity import fingerprint
from knowsub.lm.score import score
from knowsub.masks.ablation import applied
from knowsub.rivals import (
    Method,
    RivalOptions,
    Unlearned,
    gradient_ascent,
    misdirection,
    negative_preference,
    rival_options,
    sequence_nll,
    unlearn,
)
from tests.discovery.setting import statements as random_batch
from tests.evaluation.setting import WORDS, built_model, statements, tokenizer

TEXT = " ".join(WORDS[1:] * 2)
FAST = {"lr": 0.03, "steps": 30, "evaluate_every": 3, "target_batch": 4, "control_batch": 8}
RMU = {"lr": 0.05, "steering": 20.0, "control_weight": 10.0}


def search(**changes: object) -> SearchModel:
    """Return the hand-built model, of whose two blocks the second is masked."""
    return SearchModel(built_model(), tokenizer(), train_options(block_tokens=8, **changes))


def forgot(method: Method, searched: SearchModel | None = None, **changes: object) -> Unlearned:
    values = FAST | (RMU if method is Method.RMU else {}) | {"max_control_ratio": 1.5} | changes
    options = rival_options(method, **values)
    return unlearn(searched or search(), statements(), TEXT, options, seed=0)


def test_ascent_is_the_mean_log_likelihood() -> None:
    assert float(gradient_ascent(torch.tensor([1.0, 3.0]))) == -2.0


@pytest.mark.parametrize(("beta", "ratio"), [(1.0, 3.0), (0.5, 9.0)])
def test_negative_preference_by_hand(beta: float, ratio: float) -> None:
    # p fell to 1 / ratio, and (1 / ratio)^beta = 1/3: the sigmoid is 1 / (1 + 1/3)
    reference = torch.tensor([0.7, 2.0])
    loss = negative_preference(reference + math.log(ratio), reference, beta)
    assert float(loss) == pytest.approx(-2 / beta * math.log(0.75), rel=1e-6)


def test_negative_preference_tends_to_ascent_and_counts_less_what_is_forgotten() -> None:
    reference = torch.tensor([0.1, 0.1], dtype=torch.float64)

    def slope(beta: float) -> list[float]:
        nll = torch.tensor([0.1, 8.1], dtype=torch.float64, requires_grad=True)
        negative_preference(nll, reference, beta).backward()
        assert nll.grad is not None
        values: list[float] = nll.grad.tolist()
        return values

    assert slope(1e-7) == pytest.approx([-0.5, -0.5], rel=1e-6)  # the slope of ascent's mean
    # 2 sigmoid(-beta log(p / p_original)) of it: 2 / (1 + e^(0.5 * 8)) eight nats further
    assert slope(0.5) == pytest.approx([-0.5, -0.5 * 2 / (1 + math.e**4)], rel=1e-9)


def test_misdirection_by_hand() -> None:
    states, direction = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([0.0, 1.0])
    kept, original = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 1.0]])
    # mean squares of 1, 1, 0, 0 and ten times those of 1, 0
    assert float(misdirection(states, direction, [(kept, original)], 10.0)) == 5.5
    further = (torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]))  # ten times that of 2, 0
    assert float(misdirection(states, direction, [(kept, original), further], 10.0)) == 25.5


def test_the_nll_of_an_object_is_that_of_plain_hugging_face(tiny_gpt2: GPT2LMHeadModel) -> None:
    batch = random_batch(5, 9, seed=3, n_targets=2)
    logits = tiny_gpt2(input_ids=batch.tokens).logits[:, :-1]
    each = cross_entropy(logits.transpose(1, 2), batch.tokens[:, 1:], reduction="none")
    expected = (each * batch.target_mask[:, :-1]).sum(dim=1)
    torch.testing.assert_close(sequence_nll(tiny_gpt2, batch), expected)


def unsure() -> GPT2LMHeadModel:
    """Return the hand-built model with logits so small that a gradient is left."""
    model = built_model()
    with torch.no_grad():
        model.get_parameter("lm_head.weight").mul_(0.2)
    return model


def test_a_step_of_ascent_is_adams_along_the_gradient_of_plain_hugging_face() -> None:
    plain = unsure()
    rows = [s for s in statements() if s.split is Split.TARGET and s.role is Role.TRAIN]
    batch = encode_statements(tokenizer(), rows, 16)
    weight = plain.get_parameter("transformer.h.1.mlp.c_proj.weight").requires_grad_()
    logits = plain(input_ids=batch.tokens).logits[batch.target_mask]
    cross_entropy(logits, batch.labels[batch.target_mask]).neg().backward()
    gradient = weight.grad
    assert gradient is not None
    options = RivalOptions(Method.GRADIENT_ASCENT, 0.01, steps=1, target_batch=len(rows))
    searched = SearchModel(unsure(), tokenizer(), train_options(block_tokens=8))
    found = unlearn(searched, statements(), TEXT, replace(options, max_control_ratio=1e9))
    moved = found.weights["transformer.h.1.mlp.c_proj.weight"] - weight.detach()
    # Adam's first step has the length of the learning rate, against the sign of the gradient
    clear = gradient.abs() > 1e-4
    assert int(clear.sum()) > 20
    torch.testing.assert_close(moved[clear], -0.01 * gradient[clear].sign(), atol=2e-5, rtol=0)


@pytest.mark.parametrize("method", Method)
def test_targets_are_forgotten_and_the_model_is_itself_again(method: Method) -> None:
    searched = search()
    before = fingerprint(searched.model)
    found = forgot(method, searched)
    assert fingerprint(searched.model) == before
    unseen = [s for s in statements() if s.split is Split.TARGET and s.role is Role.TEST]
    batch = encode_statements(tokenizer(), unseen, 16)
    known = score(searched.model, batch).perplexity
    with applied(searched.model, found.weights):
        assert score(searched.model, batch).perplexity > 2 * known
    assert 0 < found.validation["control_ratio"] <= 1.5


@pytest.mark.parametrize("method", [Method.GRADIENT_ASCENT, Method.RMU])
def test_the_last_checkpoint_within_the_damage_is_kept(
    method: Method, tiny_gpt2: GPT2LMHeadModel
) -> None:
    options = train_options(block_tokens=8)
    searched = SearchModel(tiny_gpt2.requires_grad_(False), tokenizer(), options)
    whole = forgot(method, searched, max_control_ratio=1e9)
    ratios = {int(row["step"]): row["control_ratio"] for row in whole.curve}
    assert list(ratios) == list(range(3, 31, 3))
    limit = max(1.0, sorted(ratios.values())[len(ratios) // 2])
    assert max(ratios.values()) > limit
    found = forgot(method, searched, max_control_ratio=limit)
    assert found.curve == whole.curve  # the limit chooses, it does not train
    assert found.step == max(step for step, ratio in ratios.items() if ratio <= limit)
    validate = build_validation(searched, statements(), TEXT)
    with applied(searched.model, found.weights):
        assert validate() == found.validation


def test_where_every_checkpoint_does_more_damage_the_original_is_kept() -> None:
    searched = search()
    found = forgot(Method.GRADIENT_ASCENT, searched, lr=3.0, max_control_ratio=1.0)
    assert all(row["control_ratio"] > 1 for row in found.curve)
    assert found.step == 0
    assert found.validation["control_ratio"] == 1
    for name, weight in found.weights.items():
        assert torch.equal(weight, searched.model.get_parameter(name))


def changed(searched: SearchModel, found: Unlearned) -> set[str]:
    """Return the parameters of which a byte differs."""
    with applied(searched.model, found.weights):
        now = {name: p.detach().clone() for name, p in searched.model.named_parameters()}
    before = dict(searched.model.named_parameters())
    return {name for name, weight in now.items() if not torch.equal(weight, before[name])}


def test_misdirection_trains_one_matrix_and_ascent_all_of_the_masked_block() -> None:
    searched, mlp_out = search(), "transformer.h.1.mlp.c_proj.weight"
    assert changed(searched, forgot(Method.RMU, searched)) == {mlp_out}
    everywhere = changed(searched, forgot(Method.GRADIENT_DIFFERENCE, searched))
    assert everywhere > {mlp_out}
    assert all(name.startswith("transformer.h.1.") for name in everywhere)
    assert not any(name.endswith("bias") or "ln_" in name for name in everywhere)


def test_of_a_fused_parameter_the_matrices_that_are_not_masked_stay(
    tiny_gpt2: GPT2LMHeadModel,
) -> None:
    tiny_gpt2.resize_token_embeddings(len(WORDS))
    options = train_options(block_tokens=8, modules=["v"])
    searched = SearchModel(tiny_gpt2.requires_grad_(False), tokenizer(), options)
    found = forgot(Method.GRADIENT_ASCENT, searched, max_control_ratio=1e9)
    for name, weight in found.weights.items():
        before = tiny_gpt2.get_parameter(name)
        assert torch.equal(weight[:, :32], before[:, :32])  # queries and keys
        assert not torch.equal(weight[:, 32:], before[:, 32:])
    with pytest.raises(ValueError, match="rmu trains mlp_out, which is not among v"):
        forgot(Method.RMU, searched)


@pytest.mark.parametrize("method", [Method.NPO, Method.RMU])
def test_a_seed_gives_the_same_weights_and_another_one_others(method: Method) -> None:
    def weights(seed: int) -> torch.Tensor:
        values = FAST | (RMU if method is Method.RMU else {}) | {"max_control_ratio": 1e9}
        options = rival_options(method, **values)
        found = unlearn(search(), statements(), TEXT, options, seed)
        return found.weights["transformer.h.1.mlp.c_proj.weight"]

    first = weights(0)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


NEAR = [
    replace(s, split=Split.NEIGHBORHOOD_TRAIN) if s.split is Split.NEIGHBORHOOD_HELDOUT else s
    for s in statements()
]


def forgot_near(method: Method, searched: SearchModel, neighborhood_batch: int) -> Unlearned:
    values = FAST | (RMU if method is Method.RMU else {}) | {"max_control_ratio": 1e9}
    options = rival_options(method, **values, neighborhood_batch=neighborhood_batch)
    return unlearn(searched, NEAR, TEXT, options, seed=0)


@pytest.mark.parametrize("method", [Method.GRADIENT_DIFFERENCE, Method.NPO])
def test_neighborhood_facts_suffer_less_where_they_are_kept_too(method: Method) -> None:
    searched = search()
    near = [s for s in NEAR if s.split is Split.NEIGHBORHOOD_TRAIN and s.role is Role.TRAIN]

    def nll(neighborhood_batch: int) -> float:
        found = forgot_near(method, searched, neighborhood_batch)
        with applied(searched.model, found.weights), torch.no_grad():
            batch = searched.encode_statements(near)
            return float(sequence_nll(searched.upper, batch).mean())

    assert nll(len(near)) < nll(0)


def test_misdirection_reads_neighborhood_facts_where_it_is_asked_to() -> None:
    with_them, without = (forgot_near(Method.RMU, search(), size).weights for size in (8, 0))
    assert not torch.equal(*with_them.values(), *without.values())


def test_values_and_sets_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="method: value 'dpo' is not allowed; use gradient_ascent"):
        rival_options("dpo")
    with pytest.raises(ValueError, match=r"lr: value 0\.0 is not allowed; use > 0"):
        rival_options("npo", lr=0.0)
    with pytest.raises(ValueError, match="max_control_ratio >= 1"):
        rival_options("npo", max_control_ratio=0.9)
    with pytest.raises(ValueError, match="block: value 0 is not among 1 to 1"):
        forgot(Method.RMU, block=0)
    targets = [s for s in statements() if s.split is Split.TARGET]
    with pytest.raises(ValueError, match="neighborhood_batch: value -1 is below 0"):
        rival_options("npo", neighborhood_batch=-1)
    with pytest.raises(ValueError, match="no statement of split control_train"):
        unlearn(search(), targets, TEXT, rival_options("npo"))
