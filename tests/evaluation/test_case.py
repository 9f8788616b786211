from pathlib import Path

import pytest
import torch

from knowsub.evaluation.evaluate import MaskEvaluation, evaluate_mask
from knowsub.evaluation.metrics import perplexity
from knowsub.evaluation.records import fact_rows, to_json, write_evidence
from knowsub.masks.mask import random_masks, save_mask
from tests.evaluation.setting import (
    HEADS,
    built_model,
    fact_mask,
    options,
    statements,
    tokenizer,
)

TEXT = "kind a0 t0 sort g1 t1 " * 8


@pytest.fixture(scope="module")
def case() -> MaskEvaluation:
    model = built_model()
    mask = fact_mask(model, [head for head in HEADS if head[0] == "a"])
    told = {"a": statements("a"), "b": statements("b")}
    chosen = options(relearning=False, quantise=False)
    return MaskEvaluation(
        model, tokenizer(), mask, "a", told, {"text": TEXT, "other": TEXT}, chosen
    )


def test_one_mask_from_files_to_files(case: MaskEvaluation, tmp_path: Path) -> None:
    model = case.bench.encoder.model
    mask = fact_mask(model, [head for head in HEADS if head[0] == "a"])
    weak, strong = (
        fact_mask(model, ["a0", "g8", "g9"]),
        fact_mask(model, ["a0", "a1", *HEADS[10:20]]),
    )
    (tmp_path / "sizes").mkdir()
    save_mask(weak, tmp_path / "snip.safetensors")
    save_mask(strong, tmp_path / "sizes/snip-2.0.safetensors")
    randoms = random_masks(mask, 9, torch.Generator().manual_seed(0))
    evidence = evaluate_mask(case.bench, mask, randoms, case.options, case.exam, case.generator)
    methods = case.compare_methods(tmp_path, ["snip"], [2.0], evidence.metrics)
    found = to_json(evidence, methods, 0.95, 100)
    assert found["figures"]["random_p"] == 1 / 10
    assert found["figures"]["target_accuracy"] == 0
    assert found["methods"]["snip"]["target_accuracy"] == pytest.approx(4 / 5)
    assert found["methods"]["snip"]["heldout_accuracy"] == 0
    assert found["methods"]["snip"]["target_dnll_at_equal_control"] == pytest.approx(0)
    assert found["against_methods"]["snip"]["effect"] > 1
    assert found["cross"].keys() == {"b"}
    low, high = found["intervals"]["forgetting"]
    assert low == high == 1
    rows = fact_rows(case.bench, evidence.views, evidence.answers)
    figures, facts = write_evidence(tmp_path / "out", found, rows)
    assert figures.stat().st_size > 1000
    assert facts.read_text().count("\n") == 3 * (5 * 3 + 8 + 2 + 5)


def test_a_missing_baseline_is_named(case: MaskEvaluation, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"wanda\.safetensors"):
        case.compare_methods(tmp_path, ["wanda"], [], perplexity(case.bench, case.bench.original))
