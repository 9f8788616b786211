"""A space between prompt and answer belongs to the answer, wherever it was typed.

Reported as: karpathy/llama2.c #180 (other tokens after a trailing space), stanford-crfm/helm #2467
and EleutherAI/lm-evaluation-harness #63 (spaces between context and continuation).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from knowsub.cli.models import predictions, scores, split_at_answer
from knowsub.kg.templates import load_templates
from tests.lm.setting import PAIRS, toy_tokenizer, wide


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        ("kind of", "building", ("kind of", " building")),
        ("kind of ", "building", ("kind of", " building")),
        ("kind of  ", "  building ", ("kind of", " building")),
        ("Answer:\n", "building", ("Answer:\n", "building")),
        ("Answer:", "\nbuilding", ("Answer:", "\nbuilding")),
        ("of", "wine bar", ("of", " wine bar")),
    ],
)
def test_the_space_goes_to_the_answer(prompt: str, answer: str, expected: tuple[str, str]) -> None:
    assert split_at_answer(prompt, answer) == expected


@pytest.mark.parametrize("answer", ["", " ", "\n", " \t "])
def test_an_empty_answer_is_refused(answer: str) -> None:
    with pytest.raises(ValueError, match=r"the answer .* is empty"):
        split_at_answer("A tavern is a kind of", answer)


def test_a_trailing_space_changes_no_score(tmp_path: Path) -> None:
    wide("gpt2").save_pretrained(tmp_path)
    toy_tokenizer().save_pretrained(tmp_path)
    folder = str(tmp_path)
    subject, answer = next(iter(PAIRS.items()))
    prompt = f"A {subject} is a kind of"
    plain = scores(folder, prompt, answer, None)
    assert scores(folder, f"{prompt} ", answer, None) == plain
    assert scores(folder, f"{prompt}  ", f" {answer} ", None) == plain
    assert predictions(folder, f"{prompt} ", None, 3) == predictions(folder, prompt, None, 3)


def test_blanks_of_templates_are_made_single(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text('r: {isa: " {subject} is  a kind of {object} "}')
    assert load_templates(path)["r"][0].texts == ("{subject} is a kind of {object}",)
