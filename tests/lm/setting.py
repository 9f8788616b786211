"""A toy world that every test of the room can build in milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from knowsub.embedded.options import Dtype, PretrainOptions
from knowsub.embedded.tokenizer import train_tokenizer
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
TEXT = "\n\n".join(
    sentence.format(head, tail) for head, tail in PAIRS.items() for sentence in SENTENCES
)


def told(count: int = len(PAIRS)) -> list[Statement]:
    """Return the first `count` facts in three wordings each."""
    return [
        Statement(
            Fact(head, "hypernym", tail, head, tail),
            Split.TARGET, family, Role.TRAIN, wording.format(head), f" {tail}",
        )
        for head, tail in list(PAIRS.items())[:count]
        for family, wording in WORDINGS.items()
    ]  # fmt: skip


def statement(prompt: str, tail: str) -> Statement:
    """Return a statement of a fact that does not matter."""
    fact = Fact("head", "relation", "tail", "head", "tail")
    return Statement(fact, Split.TARGET, "kind", Role.TRAIN, prompt, tail)


def toy_tokenizer(context: int = 24) -> PreTrainedTokenizerFast:
    """Return a tokenizer of the toy world."""
    return train_tokenizer(told(), TEXT, 360, context)


def options(**changes: Any) -> PretrainOptions:
    """Return a recipe that the toy world is learnt with in a second or two."""
    values: dict[str, Any] = {
        "model": "embedded", "revision": "", "dtype": Dtype.float32, "blocks": 2, "width": 32,
        "heads": 2, "vocabulary": 360, "context": 24, "steps": 60, "statements": 24,
        "text_blocks": 4, "block_tokens": 12, "text_weight": 1.0, "matrix_lr": 0.01, "lr": 0.01,
        "warmup": 0.1, "decay": 0.5, "weight_decay": 0.0,
        "max_object_perplexity": 1.5, "seed": 3,
    }  # fmt: skip
    return PretrainOptions(**(values | changes))


def folder_of(kind: str, folder: Path) -> Path:
    """Write a tiny random model of one family with a tokenizer; return the folder."""
    from tests.architectures import tiny

    tiny(kind).save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)
    return folder
