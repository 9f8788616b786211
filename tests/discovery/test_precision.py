from __future__ import annotations

import pytest
import torch

from knowsub.discovery import precision
from knowsub.discovery.options import Matmul, Precision
from knowsub.discovery.precision import cast_head, matmul_autocast, matmul_backend, require_exact


def test_the_library_is_another_within_the_block_alone() -> None:
    settings = torch.backends.mkldnn.matmul
    before = settings.fp32_precision
    with matmul_backend(Matmul.ONEDNN):
        assert settings.fp32_precision == "bf16"
    assert settings.fp32_precision == before
    with matmul_backend(Matmul.DEFAULT):
        assert settings.fp32_precision == before


def test_the_default_library_is_exact() -> None:
    require_exact(Matmul.DEFAULT)


def test_a_library_that_is_not_exact_here_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "MOST_ERROR", 0.0)
    with pytest.raises(ValueError, match=r"train\.matmul: value 'onednn' is not allowed on this"):
        require_exact(Matmul.ONEDNN)


def test_float32_leaves_head_and_products_as_they_are() -> None:
    head = torch.nn.Linear(4, 3)
    assert cast_head(Precision.FLOAT32, head) is head
    with matmul_autocast(Precision.FLOAT32, torch.device("cpu")):
        assert head(torch.ones(2, 4)).dtype == torch.float32


def test_a_bf16_head_is_a_copy_and_sums_stay_float32() -> None:
    head = torch.nn.Linear(4, 3)
    low = cast_head(Precision.BFLOAT16, head)
    with matmul_autocast(Precision.BFLOAT16, torch.device("cpu")):
        assert low(torch.ones(2, 4)).dtype == torch.bfloat16
        assert torch.nn.functional.layer_norm(torch.ones(2, 4), (4,)).dtype == torch.float32
    assert head.weight.dtype == torch.float32
