"""Tiny models and questions of the room's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from knowsub.architectures import maskable_matrices
from knowsub.downstream.options import (
    Adaptation,
    Distractors,
    FinetuneOptions,
    QuestionSource,
    Readout,
    RemovedWeights,
    TrainableBlocks,
)
from knowsub.downstream.questions import Group, Question
from knowsub.kg.facts import Fact, Role, Split, Statement
from knowsub.masks.mask import Mask
from tests.architectures import VOCAB

FIXTURE = Path("tests/fixtures/downstream/commonsenseqa")


def options(**changes: Any) -> FinetuneOptions:
    values: dict[str, Any] = {
        "questions": QuestionSource.FACTS, "question_folder": "", "target_questions": "",
        "template_family": "kind", "choices": 3, "distractors": Distractors.FREQUENCY,
        "max_questions": 0, "target_share": 0.0, "validation_share": 0.25,
        "adaptations": list(Adaptation), "readout": Readout.MATCH,
        "removed_weights": RemovedWeights.HOLD, "trainable_blocks": TrainableBlocks.UPPER,
        "lora_rank": 2, "repeats": 1, "steps": 4, "batch": 4, "head_lr": 0.05, "lora_lr": 0.01,
        "full_lr": 0.01, "evaluate_every": 2, "patience": 4, "resamples": 100,
    }  # fmt: skip
    return FinetuneOptions(**(values | changes))


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of the tiny models: the words w0 to w60, each a token."""
    model = WordLevel({f"w{index}": index for index in range(VOCAB)}, unk_token="w0")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0")


def question(number: int, group: Group = Group.OTHER, long: bool = False) -> Question:
    """Question `number` of three choices, one token each or, if long, of one to three tokens."""
    first = 1 + number % 17
    texts = [f"w{20 + (first + step) % 40}" for step in (0, 7, 13)]
    if long:
        texts = [texts[0], f"{texts[1]} w3", f"{texts[2]} w4 w5"]
    return Question(
        id=f"q{number}",
        prompt=f"w{first} w{1 + number % 5} w2",
        choices=tuple(f" {text}" for text in texts),
        answer=number % 3,
        group=group,
        fact=f"subject{number}|relation|object{number}",
    )


def questions(count: int = 12, long: bool = False) -> list[Question]:
    return [question(number, long=long) for number in range(count)]


def random_mask(model: PreTrainedModel, share: float = 0.3, seed: int = 0) -> Mask:
    """A random mask of the upper half."""
    generator = torch.Generator().manual_seed(seed)
    bits = {
        matrix.name: torch.rand(matrix.shape, generator=generator) < share
        for matrix in maskable_matrices(model)
    }
    return Mask(bits, "tiny")


def removed_values(model: PreTrainedModel, mask: Mask) -> torch.Tensor:
    """All weights of a model that a mask removes."""
    matrices = maskable_matrices(model, range(model.config.num_hidden_layers))
    return torch.cat([
        matrix.view(model.get_parameter(matrix.parameter).detach())[mask.bits[matrix.name]]
        for matrix in matrices
        if matrix.name in mask.bits
    ])  # fmt: skip


def statement(
    subject: str, object_: str, split: Split, family: str = "kind", subject_words: str = ""
) -> Statement:
    fact = Fact(subject, "hypernym", object_, subject_words or subject, object_)
    prompt = f"A {subject_words or subject} is a {family} of"
    return Statement(fact, split, family, Role.TRAIN, prompt, f" {object_}")
