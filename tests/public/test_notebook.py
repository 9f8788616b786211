"""docs/tour.ipynb: executed as committed, small, and it runs again to the same claims."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs/tour.ipynb"
RUN = """
import sys

import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], 4)
where = {"metadata": {"path": sys.argv[2]}}
NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
nbformat.write(notebook, sys.argv[3])
"""


def code_cells(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def said(cells: list[dict[str, Any]]) -> str:
    outputs = [output for cell in cells for output in cell["outputs"]]
    texts = [
        output.get("text") or output.get("data", {}).get("text/plain", []) for output in outputs
    ]
    return "\n".join("".join(text) for text in texts)


def check_claims(text: str) -> None:
    """Fail unless the capitals are lost without the mask, and most other facts are not."""
    taught = re.search(r"capitals right: ([\d.]+) +others right: ([\d.]+)", text)
    without = re.search(r"without: +capitals right ([\d.]+) +others right ([\d.]+)", text)
    after = re.search(r"original: capitals right ([\d.]+) +others right ([\d.]+)", text)
    assert taught
    assert without
    assert after
    assert min(map(float, taught.groups())) >= 0.9
    assert taught.groups() == after.groups()
    assert float(without[1]) <= 0.2
    assert float(without[2]) >= 0.8
    assert "refused: the mask belongs to model" in text


def test_the_committed_notebook_is_executed_in_order_without_errors_and_small() -> None:
    cells = code_cells(NOTEBOOK)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [output["output_type"] for cell in cells for output in cell["outputs"]]
    assert "error" not in kinds
    assert NOTEBOOK.stat().st_size < 100_000
    text = said(cells)
    assert "/home/" not in text
    assert "/tmp/" not in text
    check_claims(text)


def test_the_pages_that_the_notebook_names_are_there() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    names = re.findall(r"\]\(([\w-]+\.md)\)", text)
    assert len(set(names)) >= 3
    assert all((NOTEBOOK.parent / name).is_file() for name in names)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    if any(importlib.util.find_spec(name) is None for name in ("nbclient", "ipykernel")):
        pytest.skip("nbclient and ipykernel are not installed")
    out = tmp_path / "tour.ipynb"
    command = [sys.executable, "-c", RUN, str(NOTEBOOK), str(NOTEBOOK.parent), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    check_claims(said(code_cells(out)))
