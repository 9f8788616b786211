import pytest

from tests.evaluation.setting import options


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("random_masks", 0), ("random_text_masks", 10), ("relearning_folds", 1),
        ("relearning_lr", 0.0), ("quantization_bits", [1]), ("size_perturbations", [0.0]),
        ("confidence_level", 1.0), ("block_tokens", 1), ("seed", -1), ("distractors", 0),
    ],
)  # fmt: skip
def test_impossible_values_are_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"test\.{key}: value .* is not allowed; use"):
        options(**{key: value})
