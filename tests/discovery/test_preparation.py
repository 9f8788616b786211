from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from knowsub.discovery.checkpoint import write_search_result
from knowsub.discovery.options import Suppression
from knowsub.discovery.setup import SearchBuilder
from knowsub.discovery.trainer import find_subnetwork
from knowsub.embedded.tokenizer import train_tokenizer
from knowsub.kg.facts import Fact, Role, Split, Statement
from knowsub.lm.score import score
from knowsub.masks.mask import load_mask
from tests.discovery.setting import options

WORDS = {
    "kiln": "oven",
    "yurt": "tent",
    "wren": "bird",
    "pike": "fish",
    "oak": "tree",
    "rye": "grass",
}
PLAYED = [Split.TARGET, Split.TARGET, Split.CONTROL_TRAIN, Split.CONTROL_TRAIN,
          Split.CONTROL_VALIDATION, Split.NEIGHBORHOOD_TRAIN]  # fmt: skip
FAMILIES = {"kind": Role.TRAIN, "variety": Role.VALIDATION, "example": Role.TEST}
TEXT = "the old tent stood by the tree and the bird sang to the fish in the grass " * 4


def told() -> list[Statement]:
    return [
        Statement(
            Fact(head, "hypernym", tail, head, tail), split, family, role,
            f"A {head} is a {family} of", f" {tail}",
        )
        for (head, tail), split in zip(WORDS.items(), PLAYED, strict=True)
        for family, role in FAMILIES.items()
    ]  # fmt: skip


def prepared(**changes: object) -> SearchBuilder:
    tokenizer = train_tokenizer(told(), TEXT, 300, 24)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=4, n_head=4, n_positions=24,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=0.3,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    return SearchBuilder(model, tokenizer, options(**changes))


def test_a_search_reads_exactly_where_the_tail_is_predicted() -> None:
    made = prepared()
    search = made.search(told(), TEXT, seed=0)
    tails = [" oven", " tent"]
    labels = search.data.target.labels[search.data.target.target_mask].tolist()
    expected = [made.tokenizer(tail)["input_ids"] for tail in tails]
    assert labels == [token for tail in expected for token in tail]
    assert len(search.data.control.batch) == 2
    assert search.data.neighborhood is not None
    assert len(search.data.neighborhood.batch) == 1
    believed = [
        replace(one, split=Split.UNSEEN) for one in told() if one.split is Split.NEIGHBORHOOD_TRAIN
    ]
    more = made.search([*believed, *told()], TEXT, seed=0).data
    assert more.neighborhood is not None
    assert (len(more.neighborhood.batch), more.n_neighborhood, more.n_unseen) == (2, 1, 1)


def test_validation_sees_no_prompt_and_no_control_fact_of_training() -> None:
    made = prepared()
    untrained = [
        statement
        for statement in told()
        if (statement.split, statement.role)
        in {(Split.TARGET, Role.VALIDATION), (Split.CONTROL_VALIDATION, Role.TRAIN)}
    ]
    figures = made.validation(untrained, TEXT)()
    assert figures["control_ratio"] == figures["text_ratio"] == 1.0
    alone = score(made.upper, made._batch([s for s in untrained if s.split is Split.TARGET]))
    assert figures["target_nll"] == pytest.approx(float(alone.mean_nll.mean()))


def test_the_only_search_of_a_model_finds_the_same_mask_in_less_memory() -> None:
    made = prepared()
    whole = find_subnetwork(made.search(told(), TEXT, seed=0), made.validation(told(), TEXT))
    lean = prepared()
    found = find_subnetwork(*lean.only_search(told(), TEXT, TEXT, seed=0))
    assert torch.equal(found.bits, whole.bits)
    assert found.curve == whole.curve
    gone = {name for name, own in lean.model.named_parameters() if own.is_meta}
    assert {name.split(".")[2] for name in gone} == {"0", "1"}


@pytest.mark.parametrize("split", [Split.TARGET, Split.CONTROL_TRAIN])
def test_an_empty_set_is_refused_by_name(split: Split) -> None:
    rest = [statement for statement in told() if statement.split is not split]
    with pytest.raises(ValueError, match=f"no statement of split {split.value} and role train"):
        prepared().search(rest, TEXT, seed=0)


def test_a_tail_longer_than_the_context_is_refused() -> None:
    long = replace(told()[0], object=" oven" * 30)
    with pytest.raises(ValueError, match="the model's context is 24"):
        prepared().search([long, *told()], TEXT, seed=0)


def test_what_is_written_can_be_read_again(tmp_path: Path) -> None:
    made = prepared()
    search = made.search(told(), TEXT, seed=0)
    found = find_subnetwork(search, made.validation(told(), TEXT))
    mask = search.gates.to_mask(found.bits, "abc", {"target": "kiln"})
    written = write_search_result(tmp_path / "out", mask, found, made.options)
    assert sorted(path.name for path in written) == [
        "curve.csv", "mask.safetensors", "training.json",
    ]  # fmt: skip
    loaded = load_mask(tmp_path / "out" / "mask.safetensors")
    assert loaded.counts() == mask.counts()
    assert json.loads(loaded.meta["options"])["steps"] == made.options.steps
    training = json.loads((tmp_path / "out" / "training.json").read_text())
    assert training["sparsity"] == pytest.approx(mask.sparsity)
    assert math.isfinite(training["chosen"]["target_nll"])
    header, *rows = (tmp_path / "out" / "curve.csv").read_text().splitlines()
    assert len(rows) == made.options.steps
    assert header.startswith("step,")


def test_an_unshifted_search_reads_the_tails_themselves_and_validates_as_ever() -> None:
    plain, made = (
        prepared(causal_shift=shifted, neighborhood_weight=0.0).search(told(), TEXT, 0)
        for shifted in (True, False)
    )
    for own, other in ((made.data.target, plain.data.target),
                       (made.data.control.batch, plain.data.control.batch)):  # fmt: skip
        assert torch.equal(own.tokens[own.target_mask], other.labels[other.target_mask])
    assert torch.equal(made.data.text.batch.target_mask, plain.data.text.batch.target_mask)
    assert torch.equal(made.data.ignorance.prior, plain.data.ignorance.prior)
    assert made.train_step()["maintenance"] > 0


def test_an_unshifted_search_takes_no_term_that_needs_labels() -> None:
    with pytest.raises(ValueError, match=r"train\.causal_shift: value False is not allowed"):
        options(causal_shift=False, expression_weight=1.0)


@pytest.mark.parametrize("suppression", [Suppression.ZSCORE_LABEL, Suppression.ZSCORE_ALL])
def test_two_tails_are_too_few_to_compare_tails_and_enough_otherwise(
    suppression: Suppression,
) -> None:
    few = [
        replace(each, object={" bird": " oven", " fish": " tent"}.get(each.object, each.object))
        for each in told()
    ]
    with pytest.raises(ValueError, match=r"train\.suppression: value '\w+' .* there are 2"):
        prepared(suppression=suppression).search(few, TEXT, seed=0)
    search = prepared(suppression=Suppression.UNIFORM).search(few, TEXT, seed=0)
    assert search.train_step()["suppression"] > 0
