"""The benchmarks run: they have no other test, and a name that moves breaks them unseen."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import large_model

MODULES = sorted(path.stem for path in Path(large_model.__file__).parent.glob("[a-z]*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_a_benchmark_imports(name: str) -> None:
    assert importlib.import_module(f"benchmarks.{name}")


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_search_at_a_large_models_shape_takes_its_steps(
    device: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--shape", "tiny", "--device", device, "--memory", "8bit", "--steps", "2"]
    monkeypatch.setattr(sys, "argv", ["large_model", *given])
    large_model.main()
    found = json.loads(capsys.readouterr().out)
    assert found["gates"] == 92_160
    assert torch.get_default_dtype() is torch.float32
    if device == "meta":
        assert 8.03 <= found["held_bytes_per_gate"] < 10  # docs/scale.md, and cached states
