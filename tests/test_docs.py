"""The documentation builds without a warning, and nothing in it is fetched from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages; a broken link, an anchor that is not there or a bad docstring fails."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "-d", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.mark.slow
def test_every_page_of_docs_is_in_the_site(site: Path) -> None:
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert pages == {path.parent.name for path in site.glob("*/index.html")} - {"assets"}
    api = (site / "api/index.html").read_text(encoding="utf-8")
    for name in ("load", "ablated", "remove", "density", "train_options", "find_subnetwork"):
        assert f'id="knowsub.api.{name}"' in api


@pytest.mark.slow
def test_the_pages_load_nothing_from_elsewhere(site: Path) -> None:
    script = re.compile(r'<(?:script|img)[^>]* src="(https?:[^"]+)"')
    style = re.compile(r'<link[^>]*rel="stylesheet"[^>]* href="(https?:[^"]+)"')
    for page in site.glob("**/*.html"):
        text = page.read_text(encoding="utf-8")
        assert not [*script.findall(text), *style.findall(text)], page
