from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import GPT2LMHeadModel

from knowsub.architectures import maskable_matrices
from knowsub.embedded.model import (
    SHUFFLED_BATCHES,
    embedded_metrics,
    fit,
    statement_batches,
    text_batches,
    train_embedded,
    training_statements,
)
from knowsub.embedded.options import PretrainOptions
from knowsub.kg.options import Paraphrases, RoleAssignment, VerbalizeOptions
from knowsub.kg.templates import Template
from knowsub.lm.batch import Batch, encode_statements
from knowsub.lm.identity import fingerprint
from knowsub.lm.load import load_model
from knowsub.lm.score import score
from tests.lm.setting import TEXT, options, statements, toy_tokenizer, wide

TEMPLATES = {
    "hypernym": (
        Template("kind", ("{subject} is a kind of {object}",)),
        Template("isa", ("{subject} is {a} {object}",)),
    )
}
FORMS = VerbalizeOptions(
    templates="templates.yaml", role_assignment=RoleAssignment.families,
    paraphrases=Paraphrases.best, max_object_tokens=0,
    train_families=["kind"],
    validation_families=["isa"], test_families=["unused"], article=True, bare=False,
    leading_space=False, known_max_nll=0.0, known_max_rank=9, known_distractors=9,
)  # fmt: skip


def texts(folder: Path) -> Path:
    for part in ("train", "validation"):
        (folder / f"{part}.txt").write_text(TEXT, encoding="utf-8")
    return folder


def ignore(step: int, losses: object) -> None:
    """Log nothing."""


def test_every_fact_is_trained_in_every_family_whatever_its_role() -> None:
    facts = list(dict.fromkeys(each.fact for each in statements()))
    trained_on = [each.text for each in training_statements(facts, TEMPLATES, FORMS)]
    assert len(trained_on) == 2 * len(facts)
    assert trained_on[:2] == ["A ziggurat is a kind of temple", "A ziggurat is a temple"]
    assert "An hour is a time" in trained_on


def test_a_missing_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train\.txt: no such file"):
        train_embedded(statements(), tmp_path, tmp_path / "model", options(steps=1), ignore)


def test_the_folder_written_holds_the_trained_model(tmp_path: Path) -> None:
    recipe = options(steps=2, max_object_perplexity=1e9)
    model, metrics = train_embedded(
        statements(), texts(tmp_path), tmp_path / "model", recipe, ignore
    )
    opened, tokenizer = load_model(tmp_path / "model")
    assert fingerprint(opened) == fingerprint(model)
    assert len(tokenizer) == 360
    assert metrics["object_perplexity"] > 1


def test_a_second_model_may_share_the_tokenizer_of_the_first(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    settings = options(steps=1, max_object_perplexity=1e9)
    train_embedded(statements(), texts(tmp_path), first, settings, ignore)
    _, tokenizer = load_model(first)
    fewer = statements()[:4]
    train_embedded(fewer, tmp_path, second, settings, ignore, tokenizer)
    assert load_model(second)[1].get_vocab() == tokenizer.get_vocab()


def test_a_model_that_did_not_learn_its_facts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pretrain\.steps: after 1 steps the object perplexity"):
        train_embedded(statements(), texts(tmp_path), tmp_path / "model", options(steps=1), ignore)
    assert not (tmp_path / "model").exists()


def trained(recipe: PretrainOptions) -> GPT2LMHeadModel:
    return fit(toy_tokenizer(), statements(), TEXT, recipe, lambda step, losses: None)


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    return trained(options())


def test_every_object_is_learned(model: GPT2LMHeadModel) -> None:
    scores = score(model, encode_statements(toy_tokenizer(), statements(), 24))
    assert scores.correct.all()
    assert scores.perplexity < 1.2


def test_equal_seeds_give_equal_weights_and_others_others() -> None:
    prints = [fingerprint(trained(options(seed=seed, steps=5))) for seed in (3, 3, 4)]
    assert prints[0] == prints[1] != prints[2]


def test_matrices_of_the_lower_half_stay_as_they_were_drawn(model: GPT2LMHeadModel) -> None:
    first = trained(options(steps=1))
    for matrix in maskable_matrices(model, [0]):
        assert torch.equal(
            *(matrix.view(one.get_parameter(matrix.parameter)) for one in (model, first))
        )
    for matrix in maskable_matrices(model):
        moved = matrix.view(model.get_parameter(matrix.parameter)) - matrix.view(
            first.get_parameter(matrix.parameter)
        )
        assert bool(moved.abs().max() > 0.01)


def test_the_model_comes_out_ready_for_use(model: GPT2LMHeadModel) -> None:
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_training_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    trained(options(steps=1))
    assert torch.equal(torch.rand(3), expected)


def test_every_step_is_logged_with_its_losses() -> None:
    logged: list[tuple[int, dict[str, float]]] = []
    fit(
        toy_tokenizer(),
        statements(),
        TEXT,
        options(steps=3),
        lambda step, losses: logged.append((step, dict(losses))),
    )
    assert [step for step, _ in logged] == [1, 2, 3]
    assert all(set(losses) == {"statements", "text"} for _, losses in logged)
    assert 4 < logged[0][1]["text"] < 8  # log of 360 is 5.9


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int) -> Batch:
    """Return statements that differ in their first token, of 3 to 9 tokens."""
    tokens, targets = (
        torch.zeros(count, 9, dtype=torch.long),
        torch.zeros(count, 9, dtype=torch.bool),
    )
    for row in range(count):
        length = 3 + row % 7
        tokens[row, :length] = row + 1
        targets[row, length - 2] = True
    return Batch(tokens, targets)


def test_every_statement_comes_once_per_round() -> None:
    batches = islice(statement_batches(numbered(50), 8, generator()), 7)
    assert sorted(torch.cat([each.tokens[:, 0] for each in batches]).tolist()) == list(range(1, 51))


def test_statements_of_a_batch_are_about_equally_long() -> None:
    sorted_out = list(
        islice(statement_batches(numbered(8 * SHUFFLED_BATCHES), 8, generator()), SHUFFLED_BATCHES)
    )
    assert sum(each.tokens.numel() for each in sorted_out) < 0.8 * 8 * SHUFFLED_BATCHES * 9
    assert all(int(each.target_mask.sum()) == 8 for each in sorted_out)


def test_no_token_of_the_text_comes_twice_in_a_round() -> None:
    text = Batch(torch.arange(100).view(20, 5), torch.ones(20, 5, dtype=torch.bool))
    seen = torch.cat(
        [each.tokens.flatten() for each in islice(text_batches(text, 4, generator()), 4)]
    )
    assert len(set(seen.tolist())) == 80
    assert torch.equal(seen.view(-1, 5) - seen.view(-1, 5)[:, :1], torch.arange(5).repeat(16, 1))


def test_equal_seeds_give_equal_batches() -> None:
    rounds = []
    for seed in (1, 1, 2):
        batches = islice(statement_batches(numbered(50), 8, generator(seed)), 5)
        rounds.append(torch.cat([each.tokens[:, 0] for each in batches]))
    assert torch.equal(rounds[0], rounds[1])
    assert not torch.equal(rounds[0], rounds[2])


def test_a_text_too_short_for_a_batch_is_refused() -> None:
    text = Batch(torch.arange(20).view(4, 5), torch.ones(4, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="text_blocks: value 4 is not allowed"):
        next(text_batches(text, 4, generator()))


def test_metrics_of_a_model_that_knows_nothing_are_those_of_chance() -> None:
    model, tokenizer = wide("gpt2"), toy_tokenizer()
    model.get_output_embeddings().weight.zero_()
    metrics = embedded_metrics(model, tokenizer, statements(), TEXT, 12)
    assert set(metrics.values()) != {0.0}
    for name in ("object_perplexity", "object_perplexity_without_upper_half", "text_perplexity"):
        assert metrics[name] == pytest.approx(len(tokenizer), rel=1e-4)


def test_metrics_leave_the_model_as_it_was() -> None:
    model = wide("llama")
    before = [parameter.clone() for parameter in model.parameters()]
    embedded_metrics(model, toy_tokenizer(), statements(), TEXT, options().block_tokens)
    assert all(map(torch.equal, before, model.parameters()))
