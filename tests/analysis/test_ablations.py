from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from knowsub.analysis.ablations import (
    ablation_rows,
    best_statements,
    mask_parts,
    open_ablation_context,
    resize_mask,
    seed_combinations,
)
from knowsub.analysis.options import AnalyzeOptions
from knowsub.analysis.pipeline import Ablations, MaskFile, mask_files
from knowsub.architectures import maskable_matrices
from knowsub.kg.facts import Role, Split
from knowsub.masks.mask import Mask, save_mask
from tests.analysis.setting import random_mask, wide_matrices
from tests.evaluation.setting import built_model, fact_mask, statements, tokenizer

A = [f"a{index}" for index in range(5)]


@pytest.fixture(scope="module")
def opened():
    model = built_model()
    matrices = maskable_matrices(model)
    rows = {name: statements(name) for name in "ab"}
    return model, open_ablation_context(model, tokenizer(), matrices, rows, 100)


OPTIONS = AnalyzeOptions(
    ablations=True, max_facts=8, tradeoff_sizes=[0.5, 1.0], baselines=True, alpha=0.05, seed=0
)


def test_removing_nothing_changes_nothing(opened):
    model, context = opened
    increase = context.nll_increase(fact_mask(model, []), "a")
    assert increase == {"target_dnll": 0.0, "control_dnll": 0.0}


def test_the_part_that_holds_the_facts_does_all_the_damage(opened):
    model, context = opened
    parts = mask_parts(fact_mask(model, A), context.matrices)
    assert list(parts)[:2] == ["whole", "block 1"]
    rows = {row["name"]: row for row in ablation_rows(context, "a", parts)}
    assert rows["mlp_out"]["target_dnll"] == rows["whole"]["target_dnll"] > 1
    assert rows["q"] == {
        "target": "a",
        "name": "q",
        "weights": 0,
        "target_dnll": 0.0,
        "control_dnll": 0.0,
    }
    assert rows["whole"]["control_dnll"] == 0.0


def test_floral_of_three_is_the_majority_in_memory_and_on_disk(tmp_path):
    matrices, generator = wide_matrices(16), torch.Generator().manual_seed(0)
    masks = [random_mask(matrices, 0.3, generator) for _ in range(3)]
    for seed, mask in enumerate(masks):
        save_mask(mask, tmp_path / f"{seed}.safetensors")
    files = [MaskFile("a", n, "trained", tmp_path / f"{n}.safetensors") for n in range(3)]
    read = seed_combinations([file.load("m") for file in files])
    for name, bits in seed_combinations(masks)["floral"].bits.items():
        votes = sum(mask.bits[name].int() for mask in masks)
        assert torch.equal(bits, votes >= 2)
        assert torch.equal(read["floral"].bits[name], bits)
    assert "floral" not in seed_combinations(masks[:2])
    assert seed_combinations(masks[:1]) == {}


def test_resizing_gives_the_size_asked_for():
    mask = random_mask(wide_matrices(), 0.1, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    for share in (0.25, 1.0, 1.5):
        size = resize_mask(mask, share, generator).size
        assert size == pytest.approx(share * mask.size, rel=0.01)


def test_one_training_prompt_per_fact_is_taken_evenly():
    rows = statements("a")
    assert len(best_statements(rows, Split.CONTROL_TRAIN, 100)) == 8
    assert len(best_statements(rows, Split.CONTROL_TRAIN, 4)) == 4
    assert {row.role for row in best_statements(rows, Split.TARGET, 3)} == {"train"}


def test_a_prompt_without_an_nll_is_never_the_best_of_its_fact():
    first = next(row for row in statements("a") if row.split is Split.TARGET)
    first = replace(first, role=Role.TRAIN)
    rows = [replace(first, nll=None), replace(first, family="scored", nll=9.0)]
    for order in (rows, rows[::-1]):
        assert [row.family for row in best_statements(order, Split.TARGET, 1)] == ["scored"]


def test_all_masks_of_the_parameters_are_ablated_in_parts_together_and_at_every_size(
    opened, tmp_path
):
    model, context = opened
    files = mask_files(tmp_path, ["a", "b"], [0, 1], ["snip"])
    for file in files:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        extra = ["g0"] if file.seed else []
        mask = fact_mask(model, [f"{file.target}{index}" for index in range(5)] + extra)
        save_mask(mask, file.path)
    for target in "ab":
        (tmp_path / f"baseline/{target}-0/sizes").mkdir()
        half = fact_mask(model, [f"{target}0"])
        save_mask(half, tmp_path / f"baseline/{target}-0/sizes/snip-0.2.safetensors")
    found = Ablations(context, "built", OPTIONS, [0.2]).run(files)
    core = {row["target"]: row for row in found["combined"] if row["name"] == "shared core"}
    union = {row["target"]: row for row in found["combined"] if row["name"] == "union"}
    assert (core["a"]["weights"], union["a"]["weights"]) == (5, 6)
    assert len(found["parts"]) == 4 * (1 + 1 + 6)
    sizes = {(row["method"], row["name"]): row for row in found["tradeoff"] if row["target"] == "b"}
    assert list(sizes) == [("trained", "0.5"), ("trained", "1"), ("snip", "0.2"), ("snip", "1")]
    damage = [sizes["snip", name]["target_dnll"] for name in ("0.2", "1")]
    assert damage[1] == pytest.approx(5 * damage[0], rel=1e-4)
    twins = {row["name"]: row for row in found["combined"] if row["target"] == "a"}
    assert twins["random as union"]["weights"] == twins["union"]["weights"]
    assert twins["random as union"]["target_dnll"] < 0.5 * twins["union"]["target_dnll"]
    resized = [row for row in found["resized"] if row["target"] == "a"]
    assert [(row["share"], row["name"]) for row in resized][:3] == [
        (0.5, "per matrix"),
        (0.5, "across"),
        (0.5, "random"),
    ]
    grown = {row["name"]: row for row in resized if row["share"] == 1.5}
    assert grown["across"]["weights"] == 5 + 2
    assert grown["per matrix"]["target_dnll"] > 2 * abs(grown["random"]["target_dnll"])


def test_what_a_part_does_to_text_is_scored_too(opened):
    model, _ = opened
    text = " ".join(row.text for row in statements("a"))
    rows = {"a": statements("a")}
    context = open_ablation_context(
        model, tokenizer(), maskable_matrices(model), rows, 8, text, block_tokens=4
    )
    empty = fact_mask(model, [])
    assert context.nll_increase(empty, "a") == {
        "target_dnll": 0.0,
        "control_dnll": 0.0,
        "text_dnll": 0.0,
    }
    assert context.nll_increase(fact_mask(model, ["a0", "a1", "a2"]), "a")["text_dnll"] > 0


def test_across_matrices_the_whole_mask_keeps_its_share_and_not_each_matrix():
    bits = {"a": torch.arange(100) < 40, "b": torch.arange(100) < 3}
    mask, generator = Mask(bits, "m"), torch.Generator().manual_seed(0)
    for share, size in ((0.5, 22), (1.5, 64)):
        across = resize_mask(mask, share, generator, across=True)
        assert across.size == pytest.approx(size, abs=1)
    large = resize_mask(mask, 1.5, generator, across=True)
    assert all(bool((bits[name] <= each).all()) for name, each in large.bits.items())
    assert large.counts()["b"] > 8  # most weights that may be added are in b
    assert resize_mask(mask, 1.5, generator).counts() == {"a": 60, "b": 5}
