from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from knowsub.architectures import maskable_matrices
from knowsub.lm.export import ModelCard, export_model, license_of
from knowsub.lm.identity import fingerprint
from knowsub.lm.load import load_model
from tests.architectures import CONFIGS, tiny
from tests.lm.setting import small_tokenizer

CARD = ModelCard(
    base="someone/small", revision="0123abc", base_fingerprint="f" * 64,
    knowledge="building.n.01", removed=16, maskable=800, made={"seed": "3", "method": "trained"},
)  # fmt: skip


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_the_exported_folder_holds_the_remaining_model(kind: str, tmp_path: Path) -> None:
    model = tiny(kind)
    site = maskable_matrices(model)[0]
    site.view(model.get_parameter(site.parameter))[0] = 0
    export_model(model, small_tokenizer(), tmp_path / "out", CARD)
    again, _ = load_model(tmp_path / "out")
    assert fingerprint(again) == fingerprint(model) != fingerprint(tiny(kind))
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.model_type == kind
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("A robin")["input_ids"]


def test_the_card_says_what_was_removed_from_what_and_how(tmp_path: Path) -> None:
    model = tiny("gpt2")
    export_model(model, small_tokenizer(), tmp_path / "out", CARD)
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    _, header, body = text.split("---\n", 2)
    assert yaml.safe_load(header)["base_model"] == "someone/small"
    for told in (
        "0123abc", "f" * 64, fingerprint(model), "building.n.01", "| removed weights | 16 |",
        "98.0000% of 800", "| method | trained |", "| seed | 3 |",
    ):  # fmt: skip
        assert told in body


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        export_model(tiny("gpt2"), small_tokenizer(), tmp_path / "out", CARD)
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_a_failed_export_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        export_model(tiny("gpt2"), small_tokenizer(), tmp_path / "out", replace(CARD, maskable=0))
    assert list(tmp_path.iterdir()) == []


def test_the_card_names_licence_and_metrics_where_they_are_known(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    assert license_of(base) == ""
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\nlicense: mine\n")
    card = replace(CARD, license=license_of(base), metrics={"target facts, PPL ×": "1,299"})
    export_model(tiny("gpt2"), small_tokenizer(), tmp_path / "out", card)
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    _, header, body = text.split("---\n", 2)
    assert yaml.safe_load(header)["license"] == "apache-2.0"
    assert "| target facts, PPL × | 1,299 |" in body
    assert "AutoModelForCausalLM.from_pretrained(folder)" in body
    (base / "README.md").write_text("no header\nlicense: mine\n")
    assert license_of(base) == ""
