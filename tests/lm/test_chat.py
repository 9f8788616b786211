"""Prompts of an instruction-tuned model are turns of its own chat template."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from knowsub.api import load
from knowsub.cli.models import predictions
from knowsub.embedded.options import PretrainOptions
from knowsub.lm.batch import as_prompt, encode_statements, encode_text, open_chat
from knowsub.lm.load import load_model, manifest, open_model
from tests.lm.setting import TEXT, options, statement, toy_tokenizer, wide
from tests.lm.test_batch import prefixing_tokenizer

CHAT = (
    "{{ bos_token }}{% for message in messages %}user: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}reply:\n{% endif %}"
)


def with_chat(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    tokenizer.chat_template = CHAT
    return tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny model whose tokenizer has a chat template."""
    wide("llama").save_pretrained(tmp_path / "model")
    with_chat(toy_tokenizer()).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_prompt_is_the_users_turn_and_the_object_begins_the_reply() -> None:
    tokenizer = with_chat(toy_tokenizer())
    open_chat(tokenizer)
    batch = encode_statements(tokenizer, [statement(" A robin is a kind of", " bird")], 64)
    text = f"{tokenizer.bos_token}user: A robin is a kind of\nreply:\nbird"
    assert batch.tokens[0].tolist() == tokenizer(text)["input_ids"]
    answer = batch.labels[0][batch.target_mask[0]].tolist()
    assert tokenizer.decode(answer) == "bird"


def test_what_opens_a_text_stands_there_once() -> None:
    tokenizer = with_chat(prefixing_tokenizer())
    open_chat(tokenizer)
    rows = encode_statements(tokenizer, [statement("A robin is a kind of", " bird")], 64).tokens
    assert rows[0].tolist().count(tokenizer.bos_token_id) == 1
    assert rows[0, 0] == tokenizer.bos_token_id


def test_running_text_is_no_turn() -> None:
    plain, chat = toy_tokenizer(), with_chat(toy_tokenizer())
    open_chat(chat)
    assert encode_text(chat, TEXT, 12).tokens.equal(encode_text(plain, TEXT, 12).tokens)


def test_a_manifest_says_whether_its_model_is_asked_in_turns(folder: Path) -> None:
    path = folder.parent / "model.json"
    for chat in (False, True):
        pinned = manifest(*load_model(folder, chat=chat), "model", "")
        path.write_text(json.dumps(pinned), encoding="utf-8")
        _, tokenizer = open_model(path)
        asked = as_prompt(tokenizer, "A robin is a")
        assert asked.endswith("reply:\n") is chat
        assert ("chat" in pinned) is chat
    _, tokenizer = load(folder, chat=True)
    assert as_prompt(tokenizer, "A robin is a") == asked
    assert len(predictions(str(path), "A robin is a", None, 3)["answers"]["original"]) == 3


def test_a_model_without_a_template_is_refused() -> None:
    with pytest.raises(ValueError, match="has no chat template"):
        open_chat(toy_tokenizer())
    tokenizer = toy_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
    with pytest.raises(ValueError, match="changes what the user says"):
        open_chat(tokenizer)
    with pytest.raises(ValueError, match="chat"):
        options(chat=True)
    assert PretrainOptions(**{**vars(options()), "model": "gpt2", "chat": True}).chat
