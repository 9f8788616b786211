from __future__ import annotations

import pytest
import torch

from knowsub.embedded.model import embedded_metrics
from knowsub.lm.batch import encode_statements
from knowsub.lm.score import ObjectScorer, score
from tests.architectures import tiny
from tests.lm.setting import TEXT, options, statement, told, toy_tokenizer


def wide(kind: str) -> torch.nn.Module:
    """Return a tiny model whose vocabulary is that of the toy tokenizer."""
    model = tiny(kind)
    model.resize_token_embeddings(len(toy_tokenizer()), mean_resizing=False)
    return model.requires_grad_(False)


def test_statements_are_scored_as_if_each_came_alone() -> None:
    model, tokenizer = wide("gpt2"), toy_tokenizer()
    alone = [
        float(score(model, encode_statements(tokenizer, [one], 24)).mean_nll) for one in told()
    ]
    assert ObjectScorer(model, tokenizer)(told()) == pytest.approx(alone, rel=1e-4)


def test_a_statement_asked_again_is_not_computed_again() -> None:
    model = wide("gpt2")
    scorer = ObjectScorer(model, toy_tokenizer())
    first = scorer(told())
    for parameter in model.parameters():
        parameter.zero_()
    assert scorer(told() + told(2)) == first + first[:6]


def test_a_statement_longer_than_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="context is 24"):
        ObjectScorer(wide("gpt2"), toy_tokenizer())([statement("A robin is " * 20, " bird")])


def test_figures_of_a_model_that_knows_nothing_are_those_of_chance() -> None:
    model, tokenizer = wide("gpt2"), toy_tokenizer()
    model.get_output_embeddings().weight.zero_()
    figures = embedded_metrics(model, tokenizer, told(), TEXT, 12)
    assert set(figures.values()) != {0.0}
    for name in ("tail_perplexity", "tail_perplexity_without_upper_half", "text_perplexity"):
        assert figures[name] == pytest.approx(len(tokenizer), rel=1e-4)


def test_figures_leave_the_model_as_it_was() -> None:
    model = wide("llama")
    before = [parameter.clone() for parameter in model.parameters()]
    embedded_metrics(model, toy_tokenizer(), told(), TEXT, options().block_tokens)
    assert all(map(torch.equal, before, model.parameters()))


def test_first_tokens_are_as_probable_as_the_model_says_after_each_prompt_alone() -> None:
    model, tokenizer = wide("gpt2"), toy_tokenizer()
    tails = [" bird", " tree"]
    found = ObjectScorer(model, tokenizer).first_tokens(told(), tails)
    wanted = [tokenizer(tail)["input_ids"][0] for tail in tails]
    for one, row in zip(told(), found, strict=True):
        prompt = tokenizer(one.prompt, return_tensors="pt").input_ids
        expected = model(prompt).logits[0, -1].softmax(dim=-1)[wanted]
        assert row == pytest.approx(expected.tolist(), rel=1e-4)
