"""The paper's preset to its end, on a GPT-2 of random weights cut to 200 steps."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from knowsub.config import load_params
from tests.pipeline.conftest import TINY, Repository, make_clone

CUT: dict[str, Any] = {
    "targets": ["building.n.01"],
    "seeds": [84],
    "prepare": {
        "control_facts": 120,
        "validation_share": 0.1,
        "text": "tests/fixtures/pipeline/text.txt",
        "other_text": "tests/fixtures/pipeline/other.txt",
    },
    "train": {
        "steps": 200,
        "block_tokens": 16,
        "text_batch": 2,
        "control_batch": 16,
    },
    "analyze": {"max_facts": 8},
    **{stage: TINY[stage] for stage in ("test", "finetune", "report")},
}
"""What is made smaller; everything else is the preset's."""
END = "<|endoftext|>"


def _write_gpt2(folder: Path, words: list[str]) -> None:
    """Write a GPT-2 of four small blocks in which every word is a token, so objects have one."""
    table = {word: index for index, word in enumerate(dict.fromkeys([END, *words]))}
    tokenizer = Tokenizer(models.WordLevel(table, unk_token=END))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    config = GPT2Config(
        vocab_size=len(table), n_embd=32, n_layer=4, n_head=4, n_positions=64, bos_token_id=0,
        eos_token_id=0, initializer_range=0.3,  # far from uniform
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, model_max_length=64
    ).save_pretrained(folder)


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A clone in which the preset has been written, cut, and run."""
    folder = tmp_path_factory.mktemp("paper")
    clone = make_clone(folder / "clone")
    done = clone.run("knowsub", "preset", "paper-gpt2", "--write", "--force")
    assert done.returncode == 0, done.stderr
    clone.set(**CUT)
    clone.dvc("repro", "prepare")
    facts = (clone.folder / "data/prepare/facts.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in facts.splitlines()]
    words = " ".join(f"{row['subject_words']} {row['object_words']}" for row in rows)
    text = (clone.folder / "data/prepare/text/train.txt").read_text(encoding="utf-8")
    _write_gpt2(folder / "gpt2", f"A An a an is are kind type of {words} {text}".split())
    clone.set(pretrain={"model": str(folder / "gpt2")})
    clone.dvc("repro")
    return clone


@pytest.mark.slow
def test_the_papers_preset_runs_to_its_end_with_the_papers_objective(paper: Repository) -> None:
    found = paper.folder / "data/train/building.n.01-84"
    training = json.loads((found / "training.json").read_text(encoding="utf-8"))
    preset = load_params(presets=["paper-gpt2"]).train
    changed = {key for key, value in training["options"].items() if value != getattr(preset, key)}
    assert changed == set(CUT["train"])
    assert (training["options"]["suppression"], training["options"]["samples"]) == (
        "uniform",
        "per_term",
    )
    assert training["chosen"]["step"] == 200  # the last mask, whatever it does
    with (found / "validations.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["100", "200"]
    assert all(0 < float(row["density"]) < 1 for row in rows)


@pytest.mark.slow
def test_every_target_fact_has_its_best_statement_and_all_others_as_paraphrases(
    paper: Repository,
) -> None:
    lines = (paper.folder / "data/verbalize/building.n.01.jsonl").read_text(encoding="utf-8")
    roles: dict[str, dict[str, list[float]]] = {}
    for row in map(json.loads, lines.splitlines()):
        if row["split"] == "target":
            by_role = roles.setdefault(row["fact"]["subject"], {})
            by_role.setdefault(row["role"], []).append(row["nll"])
    assert 11 <= len(roles) <= 19
    for by_role in roles.values():
        assert len(by_role["train"]) == 1
        assert by_role["train"][0] <= min(by_role["test"])


@pytest.mark.slow
def test_the_papers_run_ends_in_a_report_with_all_that_the_reference_prints(
    paper: Repository,
) -> None:
    folder = paper.folder / "data"
    summary = json.loads((folder / "report/summary.json").read_text(encoding="utf-8"))
    assert [(mask["target"], mask["seed"]) for mask in summary["masks"]] == [("building.n.01", 84)]
    page = (folder / "report/report.html").read_text(encoding="utf-8")
    for title in ("Probabilities of the gates", "Attention heads", "Dead neurons",
                  "Changes of rank and probability", "Shrinking and expanding"):  # fmt: skip
        assert f"<h3>{title}</h3>" in page
    results = folder / "finetune/building.n.01-84/results.json"
    scores = json.loads(results.read_text(encoding="utf-8"))["scores"]
    assert {row["adaptation"] for row in scores} >= {"head", "lora", "full"}
    params = yaml.safe_load((paper.folder / "params.yaml").read_text(encoding="utf-8"))
    assert params["finetune"]["readout"] == "last"
