from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from knowsub.discovery.options import Suppression
from knowsub.discovery.setup import (
    MEMORY_SHARE,
    MemmapAllocator,
    SearchModel,
    build_search,
    build_trainer,
    build_validation,
    write_search_result,
)
from knowsub.discovery.teacher import cache_teacher_mean_rows, cache_teacher_states
from knowsub.discovery.trainer import MaskTrainer, find_subnetwork
from knowsub.embedded.model import train_tokenizer
from knowsub.kg.facts import Fact, Role, Split, Statement
from knowsub.lm.blocks import cache_lower_states, upper_blocks
from knowsub.lm.score import score
from knowsub.masks.gates import PROBABILITY_SHARES
from knowsub.masks.mask import load_mask
from tests.architectures import tiny
from tests.discovery.setting import options, search, statements, text

WORDS = {
    "kiln": "oven",
    "yurt": "tent",
    "wren": "bird",
    "pike": "fish",
    "oak": "tree",
    "rye": "grass",
}
SPLITS = [Split.TARGET, Split.TARGET, Split.CONTROL_TRAIN, Split.CONTROL_TRAIN,
          Split.CONTROL_VALIDATION, Split.NEIGHBORHOOD_TRAIN]  # fmt: skip
FAMILIES = {"kind": Role.TRAIN, "variety": Role.VALIDATION, "example": Role.TEST}
TEXT = "the old tent stood by the tree and the bird sang to the fish in the grass " * 4


STATEMENTS = [
    Statement(
        Fact(subject, "hypernym", object_, subject, object_), split, family, role,
        f"A {subject} is a {family} of", f" {object_}",
    )
    for (subject, object_), split in zip(WORDS.items(), SPLITS, strict=True)
    for family, role in FAMILIES.items()
]  # fmt: skip


def search_model(**changes: object) -> SearchModel:
    tokenizer = train_tokenizer(STATEMENTS, TEXT, 300, 24)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=4, n_head=4, n_positions=24,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=0.3,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    return SearchModel(model, tokenizer, options(**changes))


def trainer(statements: list[Statement] = STATEMENTS, **changes: object) -> MaskTrainer:
    return build_trainer(search_model(**changes), statements, TEXT, seed=0)


def test_the_target_positions_are_those_that_predict_the_object() -> None:
    model = search_model()
    data = build_trainer(model, STATEMENTS, TEXT, seed=0).data
    labels = data.target.labels[data.target.target_mask].tolist()
    expected = [model.tokenizer(object_)["input_ids"] for object_ in (" oven", " tent")]
    assert labels == [token for tokens in expected for token in tokens]
    assert len(data.control.batch) == 2
    assert data.neighborhood is not None
    assert len(data.neighborhood.batch) == 1


def test_neighborhood_facts_come_before_statements_about_unseen_entities() -> None:
    unseen = [
        replace(statement, split=Split.UNSEEN)
        for statement in STATEMENTS
        if statement.split is Split.NEIGHBORHOOD_TRAIN
    ]
    data = trainer([*unseen, *STATEMENTS]).data
    assert data.neighborhood is not None
    assert (len(data.neighborhood.batch), data.n_neighborhood, data.n_unseen) == (2, 1, 1)


def test_validation_sees_no_prompt_and_no_control_fact_of_training() -> None:
    model = search_model()
    untrained = [
        statement
        for statement in STATEMENTS
        if (statement.split, statement.role)
        in {(Split.TARGET, Role.VALIDATION), (Split.CONTROL_VALIDATION, Role.TRAIN)}
    ]
    metrics = build_validation(model, untrained, TEXT)()
    assert metrics["control_ratio"] == metrics["text_ratio"] == 1.0
    target = model.encode_statements([s for s in untrained if s.split is Split.TARGET])
    expected = float(score(model.upper, target).mean_nll.mean())
    assert metrics["target_nll"] == pytest.approx(expected)


def test_where_a_target_is_a_whole_relation_its_unknown_facts_show_what_not_knowing_is() -> None:
    """Not control facts, which are of other relations; and nobody trains on them."""

    def relation(statement: Statement, name: str, split: Split) -> Statement:
        return replace(statement, fact=replace(statement.fact, relation=name), split=split)

    of_target = [s for s in STATEMENTS if s.split is Split.TARGET]
    unknown = [relation(s, "capital", Split.TARGET_UNKNOWN) for s in of_target[:3]]
    capitals = [relation(s, "capital", Split.TARGET) for s in of_target[3:]]
    others = [s for s in STATEMENTS if s.split is not Split.TARGET]
    asked, whole = trainer([*unknown, *capitals, *others]), trainer([*capitals, *others])
    without = asked.data.ignorance.object_zscores
    assert not torch.equal(without, whole.data.ignorance.object_zscores)
    assert len(asked.data.target) == len(whole.data.target)
    assert len(asked.data.control.batch) == len(whole.data.control.batch)
    known = [replace(s, split=Split.TARGET_UNKNOWN) for s in of_target[:3]]
    rest = [s for s in STATEMENTS if s not in of_target[:3]]
    one_relation = trainer([*known, *rest]).data.ignorance.object_zscores
    assert torch.equal(one_relation, trainer(rest).data.ignorance.object_zscores)


def test_a_search_without_the_lower_blocks_finds_the_same_mask() -> None:
    model = search_model()
    validate = build_validation(model, STATEMENTS, TEXT)
    whole = find_subnetwork(build_trainer(model, STATEMENTS, TEXT, seed=0), validate)
    lean = search_model()
    result = find_subnetwork(*build_search(lean, STATEMENTS, TEXT, TEXT, seed=0))
    assert torch.equal(result.bits, whole.bits)
    assert result.curve == whole.curve
    freed = {name for name, parameter in lean.model.named_parameters() if parameter.is_meta}
    assert {name.split(".")[2] for name in freed} == {"0", "1"}


@pytest.mark.parametrize("split", [Split.TARGET, Split.CONTROL_TRAIN])
def test_an_empty_split_is_an_error_that_names_it(split: Split) -> None:
    rest = [statement for statement in STATEMENTS if statement.split is not split]
    with pytest.raises(ValueError, match=f"no statement of split {split.value} and role train"):
        trainer(rest)


def test_a_statement_longer_than_the_context_is_an_error() -> None:
    long = replace(STATEMENTS[0], object=" oven" * 30)
    with pytest.raises(ValueError, match="the model's context is 24"):
        trainer([long, *STATEMENTS])


def test_a_written_result_can_be_read_again(tmp_path: Path) -> None:
    model = search_model()
    search = build_trainer(model, STATEMENTS, TEXT, seed=0)
    result = find_subnetwork(search, build_validation(model, STATEMENTS, TEXT))
    mask = search.gates.to_mask(result.bits, "abc", {"target": "kiln"})
    paths = write_search_result(tmp_path / "out", mask, result, model.options)
    assert sorted(path.name for path in paths) == [
        "curve.csv", "mask.safetensors", "training.json", "validations.csv",
    ]  # fmt: skip
    loaded = load_mask(tmp_path / "out" / "mask.safetensors")
    assert loaded.counts() == mask.counts()
    assert json.loads(loaded.meta["options"])["steps"] == model.options.steps
    training = json.loads((tmp_path / "out" / "training.json").read_text())
    assert training["sparsity"] == pytest.approx(mask.sparsity)
    assert math.isfinite(training["chosen"]["target_nll"])
    header, *rows = (tmp_path / "out" / "curve.csv").read_text().splitlines()
    assert len(rows) == model.options.steps
    assert header.startswith("step,")
    header, *rows = (tmp_path / "out" / "validations.csv").read_text().splitlines()
    names = ["step", "density", "target_nll", "control_ratio", "text_ratio", *PROBABILITY_SHARES]
    assert header.split(",") == names
    shares = dict(zip(names, rows[-1].split(","), strict=True))
    assert training["gates"] == pytest.approx(
        {name: float(shares[name]) for name in PROBABILITY_SHARES}, abs=1e-6
    )
    every = model.options.evaluate_every
    assert [int(row.split(",")[0]) for row in rows] == [*range(every, len(result.curve) + 1, every)]


def test_without_the_causal_shift_the_target_positions_are_the_objects_themselves() -> None:
    shifted, unshifted = (
        trainer(causal_shift=causal_shift, neighborhood_weight=0.0)
        for causal_shift in (True, False)
    )
    data, plain = unshifted.data, shifted.data
    for own, other in ((data.target, plain.target), (data.control.batch, plain.control.batch)):
        assert torch.equal(own.tokens[own.target_mask], other.labels[other.target_mask])
    assert torch.equal(data.text.batch.target_mask, plain.text.batch.target_mask)
    assert torch.equal(data.ignorance.prior, plain.ignorance.prior)
    assert unshifted.train_step()["control"] > 0


def test_without_the_causal_shift_no_term_that_needs_labels_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"train\.causal_shift: value False is not allowed"):
        options(causal_shift=False, expression_weight=1.0)


@pytest.mark.parametrize("suppression", [Suppression.ZSCORE_LABEL, Suppression.ZSCORE_ALL])
def test_two_objects_are_too_few_for_zscores_and_enough_otherwise(
    suppression: Suppression,
) -> None:
    few = [
        replace(each, object={" bird": " oven", " fish": " tent"}.get(each.object, each.object))
        for each in STATEMENTS
    ]
    with pytest.raises(ValueError, match=r"train\.suppression: value '\w+' .* there are 2"):
        trainer(few, suppression=suppression)
    assert trainer(few, suppression=Suppression.UNIFORM).train_step()["suppression"] > 0


def test_states_in_a_file_are_bit_for_bit_those_in_memory(tmp_path: Path) -> None:
    model, allocator = tiny("gpt2"), MemmapAllocator(tmp_path, 0.0)
    upper, batch = upper_blocks(model, 2), statements(9, 9, 2)
    in_memory, in_file = (
        cache_lower_states(model, 2, batch, rows=4),
        cache_lower_states(model, 2, batch, 4, allocator),
    )
    assert in_memory.lower_states is not None
    assert in_file.lower_states is not None
    assert torch.equal(in_memory.lower_states, in_file.lower_states)
    assert torch.equal(
        cache_teacher_states(upper, in_memory).states,
        cache_teacher_states(upper, in_file, allocator).states,
    )
    assert torch.equal(
        cache_teacher_mean_rows(upper, in_memory).mean_rows,
        cache_teacher_mean_rows(upper, in_file, allocator).mean_rows,
    )


def test_a_search_on_mapped_states_equals_one_on_states_in_memory(tmp_path: Path) -> None:
    in_memory, in_file = search(), search(allocate=MemmapAllocator(tmp_path, 0.0))
    assert [in_memory.train_step() for _ in range(3)] == [in_file.train_step() for _ in range(3)]
    assert torch.equal(in_memory.gates.logits, in_file.gates.logits)


def test_memory_is_taken_up_to_the_limit_and_files_beyond(tmp_path: Path) -> None:
    allocator, like = MemmapAllocator(tmp_path, 100e-9 / MEMORY_SHARE), torch.empty(1)
    allocator((20,), like)
    assert allocator.bytes_left == 20
    allocator((6,), like)
    assert allocator.bytes_left == 20
    allocator((5,), like)
    assert allocator.bytes_left == 0


def test_a_mapped_file_is_unlinked_at_once(tmp_path: Path) -> None:
    states = MemmapAllocator(tmp_path / "scratch", 0.0)(
        (3, 4), torch.empty(1, dtype=torch.bfloat16)
    )
    states.fill_(2.0)
    assert states.dtype == torch.bfloat16
    assert states.sum() == 24
    assert not list((tmp_path / "scratch").iterdir())


def test_a_disk_without_room_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"\[Errno "):
        MemmapAllocator(tmp_path, 0.0)((1 << 56,), torch.empty(1))
    assert not list(tmp_path.iterdir())


def test_text_blocks_are_cached_like_statements(tmp_path: Path) -> None:
    batch = cache_lower_states(
        tiny("gpt2"), 2, text(4, 8, 3), allocate=MemmapAllocator(tmp_path, 0.0)
    )
    assert batch.lower_states is not None
    assert batch.lower_states.shape[:2] == (4, 8)
