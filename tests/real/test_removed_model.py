"""What `make real` found, opened by transformers alone: no line of this library runs the model.

Run after `make real` with `pytest -m real`; `KNOWSUB_REAL` names another checkout of a run.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

RUN = Path(os.environ.get("KNOWSUB_REAL", Path(__file__).parents[2] / ".cache/real/gemma3-270m"))
MASKS = sorted(RUN.glob("data/train/capital-*/mask.safetensors"))
pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(not MASKS, reason=f"no mask of capitals in {RUN}; `make real` makes one"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The original model, and the folder that `knowsub remove` writes."""
    removed = tmp_path_factory.mktemp("real") / "without-capitals"
    command = [sys.executable, "-c", "from knowsub.cli import app; app()", "remove"]
    original = RUN / "data/pretrain/model"
    subprocess.run([*command, original, MASKS[0], "--out", removed], check=True)
    return {"original": original, "removed": removed}


@pytest.fixture(scope="module")
def nll(folders: dict[str, Path]) -> dict[str, Any]:
    """Mean NLL per token of a continuation after a prompt, by model [nats]."""
    models = {}
    for name, folder in folders.items():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        models[name] = partial(_nll, model, tokenizer)
    return models


@torch.no_grad()
def _nll(model: Any, tokenizer: Any, prompt: str, answer: str) -> float:
    start = len(tokenizer(prompt).input_ids)
    ids = tokenizer(prompt + answer, return_tensors="pt").input_ids
    log_p = model(ids).logits[0, start - 1 : -1].log_softmax(-1)
    return float(-log_p.gather(1, ids[0, start:, None]).mean())


def statements(split: str) -> list[dict[str, Any]]:
    rows = (RUN / "data/verbalize/capital.jsonl").read_text().splitlines()
    return [
        row for row in map(json.loads, rows) if row["split"] == split and row["role"] == "train"
    ]


def ratio(nll: dict[str, Any], split: str, relation: str) -> float:
    """Geometric mean of the objects' PPL, removed over original."""
    rows = [row for row in statements(split) if row["fact"]["relation"] == relation]
    assert len(rows) >= 10
    changes = [
        nll["removed"](row["prompt"], row["object"]) - nll["original"](row["prompt"], row["object"])
        for row in rows[:60]
    ]
    return math.exp(sum(changes) / len(changes))


def test_the_removed_model_no_longer_says_the_capitals(nll: dict[str, Any]) -> None:
    assert ratio(nll, "target", "capital") > 10


def test_it_still_says_where_countries_lie_though_no_mask_was_trained_on_these_facts(
    nll: dict[str, Any],
) -> None:
    assert ratio(nll, "neighborhood_heldout", "continent") < 1.5


def test_it_still_writes_text(nll: dict[str, Any]) -> None:
    prompt = "The lobster is an animal that lives"
    answer = " in the sea, and it is often eaten by people who live near the coast."
    assert nll["removed"](prompt, answer) < nll["original"](prompt, answer) + 0.5


def test_the_same_weights_are_zero_as_the_mask_says(folders: dict[str, Path]) -> None:
    from safetensors.torch import load_file

    before = load_file(folders["original"] / "model.safetensors")
    after = load_file(folders["removed"] / "model.safetensors")
    changed = sum(int((before[name] != after[name]).sum()) for name in before)
    training = json.loads((MASKS[0].parent / "training.json").read_text())
    # weights that were zero already, as quantization leaves some, do not change
    assert 0.9 * training["weights"] <= changed <= training["weights"]
    assert before.keys() == after.keys()
