from __future__ import annotations

import subprocess
import sys

import pytest

from tests.lm.setting import options


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("blocks", 1), ("width", 4), ("vocabulary", 100), ("context", 4), ("steps", 0),
        ("statements", 0), ("text_blocks", 0), ("block_tokens", 25), ("lr", 0.0),
        ("matrix_lr", 2.0), ("weight_decay", -0.1), ("max_object_perplexity", 0.5),
        ("seed", -1), ("model", " "), ("heads", 3), ("text_weight", -1.0),
    ],
)  # fmt: skip
def test_impossible_values_are_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{key}: value .* is not allowed; allowed: "):
        options(**{key: value})


def test_rise_and_fall_of_the_learning_rate_must_fit() -> None:
    with pytest.raises(ValueError, match="at most 1 together"):
        options(warmup=0.6, decay=0.5)


def test_the_options_need_no_torch() -> None:
    code = "import sys, knowsub.embedded.options; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
