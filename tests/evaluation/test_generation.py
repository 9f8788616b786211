"""What a model says where nothing of the answer is given."""

from __future__ import annotations

import pytest
import torch

from knowsub.evaluation.context import open_context
from knowsub.evaluation.generation import continuations, free_generation, says_objects
from knowsub.lm.batch import tokenize
from knowsub.masks.ablation import all_matrices
from tests.evaluation.setting import GROUPS, built_context, built_model, fact_mask
from tests.lm.setting import statements, toy_tokenizer, wide


def test_a_model_without_its_subnetwork_says_the_other_facts_alone() -> None:
    model = built_model()
    context = built_context(model=model)
    original = says_objects(context, 2)
    assert {name: float(said.mean()) for name, said in original.items()} == {
        "target": 1.0, "heldout": 1.0, "neighborhood": 1.0,
    }  # fmt: skip
    mask = fact_mask(model, [f"a{index}" for index in range(GROUPS["a"])])
    with context.ablated(mask):
        metrics = free_generation(context, original, 2)
    assert metrics.values["target_generated"] == 0.0
    assert metrics.values["target_original_generated"] == 1.0
    assert metrics.values["heldout_generated"] == metrics.values["neighborhood_generated"] == 1.0
    assert set(metrics.per_fact["target_generated"].values) == {0.0}


def test_no_token_no_metric() -> None:
    context = built_context()
    assert says_objects(context, 0) == {}
    assert free_generation(context, {}, 0).values == {}


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bloom", "gemma3_text"])
def test_prompts_of_all_lengths_are_continued_as_each_alone(kind: str) -> None:
    model, tokenizer = wide(kind), toy_tokenizer()
    context = open_context(model, tokenizer, all_matrices(model), statements(), {})
    facts = context.sets["target"]
    written = continuations(context.encoder, facts.statements, 3)
    assert len({len(tokenize(tokenizer, [each.prompt])[0]) for each in facts.statements}) > 1
    for statement, text in zip(facts.statements, written, strict=True):
        (tokens,) = tokenize(tokenizer, [statement.prompt])
        length = len(tokens)
        with torch.no_grad():
            for _ in range(3):
                tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
                if tokens[-1] == tokenizer.eos_token_id:
                    break
        assert text == tokenizer.decode(tokens[length:], skip_special_tokens=True)


def test_an_object_counts_as_whole_words_however_it_is_spelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = built_context()
    target = context.sets["target"].statements[:1][0]
    for text, said in (
        (f"it is \u201c{target.fact.object_words.upper()}\u201d, of course", 1.0),
        (f"{target.fact.object_words}s", 0.0),
        ("", 0.0),
    ):
        monkeypatch.setattr(
            "knowsub.evaluation.generation.continuations",
            lambda _, statements, __, text=text: [text] * len(statements),
        )
        assert float(says_objects(context, 3)["target"][0]) == said
