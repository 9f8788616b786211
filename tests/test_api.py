"""The library by one import: what it gives, what it refuses, and that it costs nothing before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import knowsub
from knowsub.config import load_params
from knowsub.discovery.options import Suppression
from knowsub.lm.identity import fingerprint, identity
from knowsub.masks.mask import Mask
from tests.evaluation.setting import N_OBJECTS, SUBJECTS, built_model, fact_mask, tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in which one weight holds each fact, and the mask of one of its facts."""
    folder, model = tmp_path_factory.mktemp("api"), built_model()
    model.save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    bits = fact_mask(model, ["a0"]).bits
    made_for = identity(model, tokenizer())
    Mask(bits, made_for, {"target": "a0"}).save(folder / "mask.safetensors")
    return folder


def answer(model: torch.nn.Module, words, subject: str) -> str:
    logits = model(words(f"kind {subject}", return_tensors="pt").input_ids).logits
    return words.decode(logits[0, -1].argmax())


def test_importing_costs_nothing_until_something_is_used() -> None:
    heavy = "{'torch', 'transformers', 'numpy', 'scipy', 'mlflow', 'hydra'} & set(sys.modules)"
    code = f"import sys, knowsub; print(sorted(dir(knowsub))); print({heavy} or 'nothing')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(sorted(knowsub.__all__)), "nothing"]


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(AttributeError, match="'knowsub' has no attribute 'ablate'"):
        _ = knowsub.ablate  # type: ignore[attr-defined]
    assert knowsub.__version__.count(".") == 2


def test_a_model_and_a_mask_are_opened_by_text_and_the_mask_says_what_it_is(folder: Path) -> None:
    model, words = knowsub.load(str(folder / "model"))
    mask = knowsub.Mask.load(str(folder / "mask.safetensors"))
    assert repr(mask).startswith("Mask(1 of ")
    assert f"model {fingerprint(model)[:12]}, target a0)" in repr(mask)
    before = answer(model, words, "a0")
    with knowsub.ablated(model, mask):
        assert answer(model, words, "a0") != before
        assert answer(model, words, "b0") == answer(built_model(), words, "b0")
    assert answer(model, words, "a0") == before
    knowsub.remove(model, mask)
    assert answer(model, words, "a0") != before


def test_a_mask_of_another_model_is_refused(folder: Path) -> None:
    model, _ = knowsub.load(folder / "model")
    mask = knowsub.Mask.load(folder / "mask.safetensors")
    model.transformer.h[0].mlp.c_fc.weight[0, 0] += 1
    with pytest.raises(ValueError, match=r"belongs to model .*, this is model"):
        knowsub.ablated(model, mask)
    with pytest.raises(ValueError, match="belongs to model"):
        knowsub.remove(model, mask)


def test_a_plot_shows_the_density_of_every_matrix_of_every_block(folder: Path) -> None:
    mask = knowsub.Mask.load(folder / "mask.safetensors")
    axis, bar = knowsub.plot(mask).axes
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["1"]
    types = [tick.get_text() for tick in axis.get_yticklabels()]
    values = axis.images[0].get_array()
    assert values is not None
    assert values[types.index("mlp out"), 0] == pytest.approx(100 / WIDTH_SQUARED)
    assert float(values.sum()) == pytest.approx(100 / WIDTH_SQUARED)
    assert "[%]" in bar.get_ylabel()


WIDTH_SQUARED = 4 * 64 * 64
"""Weights of the built model's `mlp_out`."""


def test_densities_are_counted_by_part(folder: Path) -> None:
    mask = knowsub.Mask.load(folder / "mask.safetensors")
    rows = mask.bits["blocks.1.mlp_out"].numel()
    assert knowsub.density(mask)["blocks.1.mlp_out"] == 1 / rows
    block = sum(bits.numel() for name, bits in mask.bits.items() if name.startswith("blocks.1"))
    assert knowsub.density(mask, by="block") == {"block 1": 1 / block}  # the upper half
    assert knowsub.density(mask, by="module")["mlp_out"] == 1 / rows
    assert set(knowsub.density(mask, by="head").values()) == {0}
    with pytest.raises(ValueError, match="by: value 'layer' is not allowed; use matrix, block"):
        knowsub.density(mask, by="layer")


def test_the_options_that_travel_with_the_package_are_those_of_params_yaml() -> None:
    assert knowsub.train_options() == load_params().train
    changed = knowsub.train_options(steps=7, suppression="uniform")
    assert (changed.steps, changed.suppression) == (7, Suppression.UNIFORM)


def test_options_that_are_misspelt_or_out_of_range_are_all_named() -> None:
    with pytest.raises(ValueError, match="step: not among granularity, estimator"):
        knowsub.train_options(step=7)
    with pytest.raises(ValueError, match=r"steps: value '7' is not .*; lr: value -1 is not"):
        knowsub.train_options(lr=-1, steps="7")
    with pytest.raises(ValueError, match=r"^train.grad_accumulation: value 99 is not"):
        knowsub.train_options(grad_accumulation=99)


def test_a_search_in_memory_forgets_the_target_and_leaves_the_model_as_it_was() -> None:
    model, words = built_model(), tokenizer()
    before = fingerprint(model)
    objects = {subject: answer(model, words, subject) for subject in SUBJECTS}
    pairs = {name: (f"kind {name}", object_) for name, object_ in objects.items()}
    target = [pairs[name] for name in SUBJECTS if name.startswith("a")]
    control = [pairs[name] for name in SUBJECTS if not name.startswith("a")]
    options = knowsub.train_options(
        suppression="uniform", steps=60, blocks="1:2", lr=0.5,
        block_tokens=8, neighborhood_weight=0.0, sparsity_weight_start=1.0, sparsity_weight_end=2.0,
        target_density=0.0, max_density=1.0, evaluate_every=60,
    )  # fmt: skip
    steps: list[float] = []
    mask = knowsub.find_subnetwork(
        model, words, target, control, "kind a0 t0 sort g1 t1 " * 60, options,
        log=lambda metrics: steps.append(metrics["step"]),
    )  # fmt: skip
    assert steps[-1] == 60
    assert fingerprint(model) == before
    assert 0 < mask.size < mask.maskable
    assert N_OBJECTS > 1
    with knowsub.ablated(model, mask):
        forgotten = sum(
            answer(model, words, name) != objects[name] for name in objects if name[0] == "a"
        )
    assert forgotten >= len(target) / 2
