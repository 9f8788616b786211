from typing import Any

import pytest

from knowsub.downstream.options import Adaptation, QuestionSource
from tests.downstream.setting import options


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0}, {"batch": 0}, {"repeats": 0}, {"lora_rank": 0}, {"patience": 0},
        {"evaluate_every": 0}, {"head_lr": 0.0}, {"lora_lr": -1.0}, {"full_lr": float("nan")},
        {"choices": 1}, {"choices": 27}, {"limit": -1}, {"target_share": 1.0},
        {"validation_share": 0.0}, {"resamples": 10}, {"family": " "}, {"adaptations": []},
        {"adaptations": [Adaptation.HEAD, Adaptation.HEAD]}, {"questions": QuestionSource.FILES},
    ],
)  # fmt: skip
def test_an_impossible_value_is_refused_by_its_key(change: dict[str, Any]) -> None:
    key = "folder" if "questions" in change else next(iter(change))
    with pytest.raises(ValueError, match=rf"finetune\.{key}: value .* is not allowed; use"):
        options(**change)


def test_files_with_a_folder_are_allowed() -> None:
    assert options(questions=QuestionSource.FILES, folder="somewhere").folder == "somewhere"
