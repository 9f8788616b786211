from __future__ import annotations

import pytest
import torch
from transformers import GPT2LMHeadModel

from knowsub.architectures import maskable_matrices
from knowsub.embedded.model import fit
from knowsub.embedded.options import PretrainOptions
from knowsub.lm.batch import encode_statements
from knowsub.lm.load import fingerprint
from knowsub.lm.score import score
from tests.lm.setting import TEXT, options, statements, toy_tokenizer


def trained(recipe: PretrainOptions) -> GPT2LMHeadModel:
    return fit(toy_tokenizer(), statements(), TEXT, recipe, lambda step, losses: None)


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    return trained(options())


def test_every_tail_is_learnt(model: GPT2LMHeadModel) -> None:
    scores = score(model, encode_statements(toy_tokenizer(), statements(), 24))
    assert scores.correct.all()
    assert scores.perplexity < 1.2


def test_equal_seeds_give_equal_weights_and_others_others() -> None:
    prints = [fingerprint(trained(options(seed=seed, steps=5))) for seed in (3, 3, 4)]
    assert prints[0] == prints[1] != prints[2]


def test_matrices_of_the_lower_half_stay_as_they_were_drawn(model: GPT2LMHeadModel) -> None:
    first = trained(options(steps=1))
    for site in maskable_matrices(model, [0]):
        assert torch.equal(
            *(site.view(one.get_parameter(site.parameter)) for one in (model, first))
        )
    for site in maskable_matrices(model):
        moved = site.view(model.get_parameter(site.parameter)) - site.view(
            first.get_parameter(site.parameter)
        )
        assert bool(moved.abs().max() > 0.01)


def test_the_model_comes_out_ready_for_use(model: GPT2LMHeadModel) -> None:
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_training_leaves_the_global_source_of_chance_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    trained(options(steps=1))
    assert torch.equal(torch.rand(3), expected)


def test_every_step_is_told_with_its_losses() -> None:
    heard: list[tuple[int, dict[str, float]]] = []
    fit(
        toy_tokenizer(),
        statements(),
        TEXT,
        options(steps=3),
        lambda step, it: heard.append((step, dict(it))),
    )
    assert [step for step, _ in heard] == [1, 2, 3]
    assert all(set(losses) == {"statements", "text"} for _, losses in heard)
    assert 4 < heard[0][1]["text"] < 8  # log of 360 is 5.9
