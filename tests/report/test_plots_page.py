"""The page of `dvc plots`: its lines are drawn by the page itself, without the network."""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path

import pytest
from dvc_render.html import render_html
from dvc_render.vega import VegaRenderer

from tests.browser import CHROMIUM, browser

FOLDER = Path(__file__).parents[2] / ".dvc"
FIELDS = ("statements", "text")
TITLE = "Losses of the <embedded> model"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What DVC writes with the configured template, of two runs with two curves."""
    config = ConfigParser()
    config.read(FOLDER / "config")
    rows = [
        {"step": step, "y": 1 / step, "rev": rev, "field": field}
        for rev in ("workspace", "HEAD")
        for field in FIELDS
        for step in (1, 2, 4)
    ]
    plot = VegaRenderer(
        rows, "curve", x="step", y="y", title=TITLE, x_label="step [steps]", y_label="NLL [nats]",
        anchors_y_definitions=[{"filename": "curve.csv", "field": f} for f in FIELDS],
    )  # fmt: skip
    file = tmp_path_factory.mktemp("plots") / "index.html"
    render_html([plot], file, html_template=FOLDER / config["plots"]["html_template"])
    return file


def test_the_page_loads_nothing(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "vegaEmbed('#curve', spec)" in text
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text)
    assert "import(" not in text
    assert "fetch(" not in text


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_every_curve_of_every_run_is_a_line_with_its_name(page: Path, tmp_path: Path) -> None:
    with browser(tmp_path) as window:
        window.open(page.as_uri(), 420, 800)
        text = window.wait_for(TITLE)
        count = "document.querySelectorAll('polyline').length"
        first = "document.querySelector('polyline').getAttribute('points').split(' ')"
        assert window.value(count) == 4
        assert window.value("document.documentElement.scrollWidth") <= 420
        for words in ("workspace · statements", "HEAD · text", "step [steps]", "NLL [nats]"):
            assert words in text
        # steps 1, 2 and 4 of 1 to 4; 1, 1/2 and 1/4 of 1/4 to 1
        assert window.value(first) == ["60.0,30.0", "286.7,210.0", "740.0,300.0"]
