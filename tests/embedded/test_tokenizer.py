from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from knowsub.embedded.model import END, train_tokenizer
from tests.lm.setting import PAIRS, statements, toy_tokenizer

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("words", PAIRS.values())
def test_every_object_is_one_token(words: str) -> None:
    assert len(toy_tokenizer()(f" {words}")["input_ids"]) == 1


def test_any_text_comes_back_from_its_tokens() -> None:
    text = "Ünseen words — and 数 bytes,\n\ttoo."
    assert toy_tokenizer().decode(toy_tokenizer()(text)["input_ids"]) == text


def test_the_vocabulary_is_as_large_as_asked_where_words_allow() -> None:
    assert len(toy_tokenizer()) == 360
    assert len(train_tokenizer(statements(1), "a a", 5000, 24)) < 400


def test_the_end_token_has_id_0() -> None:
    assert toy_tokenizer().convert_tokens_to_ids(END) == 0
    assert toy_tokenizer().eos_token_id == 0


def test_a_saved_tokenizer_opens_with_transformers_alone(tmp_path: Path) -> None:
    toy_tokenizer().save_pretrained(tmp_path)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    for each in statements():
        assert opened(each.text)["input_ids"] == toy_tokenizer()(each.text)["input_ids"]
    assert opened.model_max_length == 24


def test_files_are_equal_byte_for_byte_in_another_process(tmp_path: Path) -> None:
    code = (
        "import sys; from tests.lm.setting import toy_tokenizer; "
        "toy_tokenizer().save_pretrained(sys.argv[1])"
    )
    environment = os.environ | {"RAYON_NUM_THREADS": "2", "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", code, str(tmp_path / "other")]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    toy_tokenizer().save_pretrained(tmp_path / "here")
    here, other = (sorted((tmp_path / name).iterdir()) for name in ("here", "other"))
    assert [path.name for path in here] == [path.name for path in other]
    assert [path.read_bytes() for path in here] == [path.read_bytes() for path in other]
