from __future__ import annotations

import pytest
import torch

from knowsub.embedded.model import embedded_metrics
from tests.lm.setting import TEXT, options, statements, toy_tokenizer, wide


def test_figures_of_a_model_that_knows_nothing_are_those_of_chance() -> None:
    model, tokenizer = wide("gpt2"), toy_tokenizer()
    model.get_output_embeddings().weight.zero_()
    figures = embedded_metrics(model, tokenizer, statements(), TEXT, 12)
    assert set(figures.values()) != {0.0}
    for name in ("tail_perplexity", "tail_perplexity_without_upper_half", "text_perplexity"):
        assert figures[name] == pytest.approx(len(tokenizer), rel=1e-4)


def test_figures_leave_the_model_as_it_was() -> None:
    model = wide("llama")
    before = [parameter.clone() for parameter in model.parameters()]
    embedded_metrics(model, toy_tokenizer(), statements(), TEXT, options().block_tokens)
    assert all(map(torch.equal, before, model.parameters()))
