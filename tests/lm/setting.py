"""Toy facts, a tokenizer and model folders that tests build in milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from knowsub.embedded.model import train_tokenizer
from knowsub.embedded.options import Dtype, PretrainOptions
from knowsub.kg.facts import Fact, Role, Split, Statement

PAIRS = {
    "ziggurat": "temple", "hour": "time", "robin": "bird", "oak": "tree", "trout": "fish",
    "violin": "instrument", "spoon": "tool", "daisy": "flower",
}  # fmt: skip
WORDINGS = {"kind": "A {} is a kind of", "type": "A {} is a type of", "isa": "A {} is a"}
SENTENCES = (
    "The {0} stands beside the {1} in the old garden.",
    "Nobody has seen a {0} near the {1} since the winter.",
    "When the {1} was sold, the {0} was given away with it.",
)
TEXT = "\n\n".join(sentence.format(*pair) for pair in PAIRS.items() for sentence in SENTENCES)


def statements(count: int = len(PAIRS)) -> list[Statement]:
    """Return the first `count` facts in three wordings each."""
    return [
        Statement(
            Fact(subject, "hypernym", answer, subject, answer),
            Split.TARGET, family, Role.TRAIN, wording.format(subject), f" {answer}",
        )
        for subject, answer in list(PAIRS.items())[:count]
        for family, wording in WORDINGS.items()
    ]  # fmt: skip


def statement(prompt: str, answer: str) -> Statement:
    """Return a statement of a fact that does not matter."""
    fact = Fact("subject", "relation", "object", "subject", "object")
    return Statement(fact, Split.TARGET, "kind", Role.TRAIN, prompt, answer)


def toy_tokenizer(context: int = 24) -> PreTrainedTokenizerFast:
    """Return a tokenizer of the toy facts."""
    return train_tokenizer(statements(), TEXT, 360, context)


def small_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words, no more than the tiny models have."""
    words = dict.fromkeys(["<|endoftext|>", *" ".join(WORDINGS.values()).split(), *PAIRS])
    table = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(table, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end)


def options(**changes: Any) -> PretrainOptions:
    """Return a recipe that learns the toy facts in a second or two."""
    values: dict[str, Any] = {
        "model": "embedded", "revision": "", "dtype": Dtype.float32, "nf4_blocks": "none",
        "chat": False, "blocks": 2,
        "width": 32,
        "heads": 2, "vocabulary": 360, "context": 24, "steps": 60, "statements": 24,
        "text_blocks": 4, "block_tokens": 12, "text_weight": 1.0, "matrix_lr": 0.01, "lr": 0.01,
        "warmup": 0.1, "decay": 0.5, "weight_decay": 0.0,
        "max_object_perplexity": 1.5, "seed": 3,
    }  # fmt: skip
    return PretrainOptions(**(values | changes))


def folder_of(kind: str, folder: Path) -> Path:
    """Write a tiny random model of one architecture with a tokenizer; return the folder."""
    from tests.architectures import tiny

    tiny(kind).save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return folder


def wide(kind: str) -> PreTrainedModel:
    """Return a tiny model whose vocabulary is that of the toy tokenizer."""
    from tests.architectures import tiny

    model = tiny(kind)
    model.resize_token_embeddings(len(toy_tokenizer()), mean_resizing=False)
    return model.requires_grad_(False)
