from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from knowsub.analysis.overlap import analyze_overlap
from knowsub.analysis.pipeline import (
    analyze_structure,
    mask_files,
    write_analysis,
    write_combinations,
)
from knowsub.architectures import maskable_matrices
from knowsub.masks.mask import Mask, load_mask, save_mask
from tests.analysis.setting import random_mask
from tests.architectures import tiny


def test_masks_are_enumerated_from_the_parameters_not_from_the_disk(tmp_path):
    (tmp_path / "train/left-over-3").mkdir(parents=True)
    found = mask_files(tmp_path, ["a", "b"], [0, 2], ["snip"])
    assert [(file.target, file.seed, file.method) for file in found] == [
        (target, seed, method)
        for target in "ab"
        for seed in (0, 2)
        for method in ("trained", "snip")
    ]
    assert found[1].path == tmp_path / "baseline/a-0/snip.safetensors"
    assert found[1].resized(2.0).path == tmp_path / "baseline/a-0/sizes/snip-2.0.safetensors"


def test_every_trained_mask_gets_a_row_and_every_pair_a_comparison(tmp_path):
    model, generator = tiny("gpt2"), torch.Generator().manual_seed(0)
    matrices = maskable_matrices(model)
    files = mask_files(tmp_path, ["a", "b"], [0, 1], ["snip"])
    for file in files:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        save_mask(random_mask(matrices, 0.1, generator), file.path)
    rows, summaries = analyze_structure(files, model, "m", matrices)
    assert [(row["target"], row["seed"]) for row in rows] == [
        ("a", 0),
        ("a", 1),
        ("b", 0),
        ("b", 1),
    ]
    kinds = {kind: mean["pairs"] for kind, mean in analyze_overlap(summaries)["kinds"].items()}
    assert kinds == {"other seed": 2, "other target": 4, "other method": 4}
    first, second = write_analysis(tmp_path / "out", {"one": {"masks": rows}, "two": {}})
    assert json.loads(first.read_text())["masks"][0]["magnitude"]["p"] > 0
    assert second == tmp_path / "out/two.json"


def test_a_missing_or_foreign_mask_is_named(tmp_path):
    model = tiny("gpt2")
    files = mask_files(tmp_path, ["a"], [0], [])
    with pytest.raises(FileNotFoundError, match=r"train/a-0/mask\.safetensors: no such"):
        analyze_structure(files, model, "m", maskable_matrices(model))
    files[0].path.parent.mkdir(parents=True)
    save_mask(
        Mask(random_mask(maskable_matrices(model), 0.1, torch.Generator()).bits, "x" * 64),
        files[0].path,
    )
    with pytest.raises(ValueError, match="belongs to model xxxxxxxxxxxx"):
        analyze_structure(files, model, "m", maskable_matrices(model))


def test_what_is_written_does_not_depend_on_the_order_of_keys(tmp_path):
    one = write_analysis(tmp_path / "1", {"x": {"a": 1, "b": 2}})[0]
    two = write_analysis(tmp_path / "2", {"x": {"b": 2, "a": 1}})[0]
    assert Path(one).read_bytes() == Path(two).read_bytes()


def test_what_seeds_share_is_written_as_masks_and_floral_is_the_majority(tmp_path):
    matrices, generator = maskable_matrices(tiny("gpt2")), torch.Generator().manual_seed(0)
    files = mask_files(tmp_path, ["a", "b"], [0, 1, 2], [])
    for file in files:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        save_mask(random_mask(matrices, 0.4, generator), file.path)
    written = write_combinations(tmp_path / "combined", files, "m")
    names = ("union", "shared_core", "floral", "first_only")
    assert [path.stem for path in written] == [f"{t}-{name}" for t in "ab" for name in names]
    union, core, floral, _ = (load_mask(path) for path in written[:4])
    seeds = [load_mask(file.path) for file in files if file.target == "a"]
    for name in floral.bits:
        votes = sum(mask.bits[name].int() for mask in seeds)
        for mask, least in ((union, 1), (floral, 2), (core, 3)):
            assert torch.equal(mask.bits[name], votes >= least)
    assert write_combinations(tmp_path / "none", files[:1], "m") == []
