from __future__ import annotations

import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from knowsub.lm import score as score_module
from knowsub.lm.batch import Batch, encode_statements
from knowsub.lm.score import ObjectScorer, score, target_logits
from tests.architectures import CONTEXT, VOCAB, tiny
from tests.lm.setting import statement, statements, toy_tokenizer, wide


def successor_model(vocabulary: int = 12) -> GPT2LMHeadModel:
    """Return a model that knows one thing: after token t comes t + 1, and it is sure of it."""
    config = GPT2Config(
        vocab_size=vocabulary, n_embd=vocabulary, n_layer=1, n_head=1, n_positions=8,
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    for block in model.transformer.h:
        for parameter in block.parameters():
            parameter.zero_()
    model.transformer.wpe.weight.zero_()
    model.transformer.wte.weight.copy_(torch.eye(vocabulary))
    model.lm_head.weight.copy_(20 * torch.eye(vocabulary).roll(1, dims=0))
    return model


def batch_of(rows: list[list[int]], targets: list[list[int]]) -> Batch:
    """Return token rows with targets at the given positions."""
    tokens = torch.tensor(rows)
    target_mask = torch.zeros_like(tokens, dtype=torch.bool)
    for row, positions in enumerate(targets):
        target_mask[row, positions] = True
    return Batch(tokens, target_mask)


def test_an_object_is_scored_where_it_is_predicted_and_nowhere_else() -> None:
    # Only the position before the last one is followed by its successor.
    batch = batch_of([[7, 2, 5, 6]], [[2]])
    scores = score(successor_model(), batch)
    assert scores.nll.item() < 1e-3
    assert scores.correct.all()
    for wrong in (0, 1):
        elsewhere = score(successor_model(), batch_of([[7, 2, 5, 6]], [[wrong]]))
        assert elsewhere.nll.item() > 10
        assert not elsewhere.correct.any()


def test_every_token_of_an_object_counts() -> None:
    scores = score(successor_model(), batch_of([[3, 4, 5, 6], [3, 4, 5, 7]], [[1, 2], [1, 2]]))
    assert scores.tokens.tolist() == [2, 2]
    assert scores.correct.tolist() == [True, False]
    assert scores.rank[0] == 0
    assert scores.rank[1] > 0


def test_a_model_that_knows_nothing_has_the_vocabulary_as_perplexity() -> None:
    model = tiny("gpt2")
    model.get_output_embeddings().weight.zero_()
    scores = score(model, batch_of([[1, 2, 3], [4, 5, 6]], [[0, 1], [1]]))
    assert scores.perplexity == pytest.approx(VOCAB, rel=1e-6)


def test_perplexity_weighs_tokens_and_not_sequences() -> None:
    scores = score(tiny("gpt2"), batch_of([[1, 2, 3, 4], [4, 5, 6, 7]], [[0, 1, 2], [0]]))
    assert scores.perplexity == pytest.approx(math.exp(float(scores.nll.sum()) / 4), rel=1e-6)
    assert scores.mean_nll[0] == pytest.approx(float(scores.nll[0]) / 3)


def test_the_nll_is_that_of_the_whole_logits() -> None:
    model, tokens = tiny("llama"), torch.randint(VOCAB, (5, CONTEXT))
    target_mask = torch.rand(5, CONTEXT) < 0.4
    target_mask[:, 0], target_mask[:, -1] = True, False
    log_probabilities = model(input_ids=tokens).logits.log_softmax(dim=-1)
    for row, nll in enumerate(score(model, Batch(tokens, target_mask)).nll):
        positions = target_mask[row].nonzero()[:, 0]
        by_hand = -sum(log_probabilities[row, p, tokens[row, p + 1]] for p in positions)
        assert nll == pytest.approx(float(by_hand), rel=1e-4)


def test_the_size_of_a_pass_changes_nothing() -> None:
    model, tokens = tiny("gpt2"), torch.randint(VOCAB, (7, 9))
    target_mask = torch.ones_like(tokens, dtype=torch.bool)
    target_mask[:, -1] = False
    one, many = (score(model, Batch(tokens, target_mask), rows=rows) for rows in (1, 64))
    torch.testing.assert_close(one.nll, many.nll)
    assert torch.equal(one.rank, many.rank)


def test_logits_come_with_the_tokens_they_predict() -> None:
    batch = batch_of([[1, 2, 3], [4, 5, 6], [7, 8, 9]], [[1], [0, 1], [0]])
    parts = list(target_logits(tiny("opt"), batch, rows=2))
    assert [covered for covered, _, _ in parts] == [slice(0, 2), slice(2, 4)]
    assert [labels.tolist() for _, _, labels in parts] == [[3, 5, 6], [8]]


@pytest.mark.parametrize("max_logits", [1, 3 * VOCAB, 10 * VOCAB])
def test_scores_do_not_depend_on_how_many_logits_are_held(
    max_logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokens = tiny("gpt2"), torch.randint(VOCAB, (7, CONTEXT))
    target_mask = torch.rand(7, CONTEXT) < 0.5
    target_mask[:, 0], target_mask[:, -1] = True, False
    whole = score(model, Batch(tokens, target_mask), rows=3)
    seen: list[int] = []
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda _, __, logits: seen.append(logits.numel()))
    monkeypatch.setattr(score_module, "MAX_LOGITS", max_logits)
    parts = score(model, Batch(tokens, target_mask), rows=3)
    torch.testing.assert_close(parts.nll, whole.nll)
    assert torch.equal(parts.rank, whole.rank)
    assert max(seen) <= max(max_logits, VOCAB)


def test_statements_are_scored_as_if_each_came_alone() -> None:
    model, tokenizer = wide("gpt2"), toy_tokenizer()
    alone = [
        float(score(model, encode_statements(tokenizer, [each], 24)).mean_nll)
        for each in statements()
    ]
    assert ObjectScorer(model, tokenizer)(statements()) == pytest.approx(alone, rel=1e-4)


def test_a_statement_is_scored_once() -> None:
    model = wide("gpt2")
    scorer = ObjectScorer(model, toy_tokenizer())
    first = scorer(statements())
    for parameter in model.parameters():
        parameter.zero_()
    assert scorer(statements() + statements(2)) == first + first[:6]


def test_a_statement_longer_than_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="context is 24"):
        ObjectScorer(wide("gpt2"), toy_tokenizer())([statement("A robin is " * 20, " bird")])


def test_first_tokens_are_as_probable_as_the_model_says_after_each_prompt_alone() -> None:
    model, tokenizer = wide("gpt2"), toy_tokenizer()
    objects = [" bird", " tree"]
    rows = ObjectScorer(model, tokenizer).first_tokens(statements(), objects)
    wanted = [tokenizer(text)["input_ids"][0] for text in objects]
    for each, row in zip(statements(), rows, strict=True):
        prompt = tokenizer(each.prompt, return_tensors="pt").input_ids
        expected = model(prompt).logits[0, -1].softmax(dim=-1)[wanted]
        assert row == pytest.approx(expected.tolist(), rel=1e-4)
