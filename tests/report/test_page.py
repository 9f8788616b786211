from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter

import pytest

from knowsub.report.collect import read_mask_results
from knowsub.report.cross import with_dominance
from knowsub.report.metrics import missed_thresholds
from knowsub.report.page import write_report
from knowsub.report.structure_tables import examples
from tests.browser import CHROMIUM, FLAGS, browser
from tests.report.setting import SEEDS, TARGETS, make_report


def test_the_same_inputs_give_the_same_bytes(report, data, results, tmp_path):
    again = write_report(tmp_path, make_report(data, results))
    assert len(again) == 13
    for path in again:
        other = report / path.relative_to(tmp_path)
        assert path.read_bytes() == other.read_bytes(), path.name


def test_the_page_is_small_and_fetches_nothing(report):
    page = (report / "report.html").read_text()
    assert len(page.encode()) < 5_000_000
    sources = re.findall(r"(?:src|href)\s*=\s*[\"']?([^\"'\s>]+)", page)
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp|<link[^>]+stylesheet", page)


def test_every_link_of_the_page_has_one_destination(report):
    page = (report / "report.html").read_text()
    ids = Counter(re.findall(r'\bid="([^"]+)"', page))
    assert set(ids.values()) == {1}
    links = re.findall(r'href="#([^"]+)"', page)
    assert "facts" in links
    assert set(links) <= ids.keys()
    assert '<h2 id="facts">' in page


def test_answers_cannot_break_out_of_the_page(report):
    page = (report / "report.html").read_text()
    assert page.count("</script>") == 2


def test_a_mask_without_optional_metrics_is_still_reported(data, tmp_path):
    bare = tmp_path / "data"
    shutil.copytree(data / "test", bare / "test")
    for path in bare.glob("test/*/facts.jsonl"):
        path.unlink()
    for path in bare.glob("test/*/figures.json"):
        path.write_text(json.dumps({"figures": {"sparsity": 0.99}}))
    results = with_dominance(read_mask_results(bare, TARGETS, SEEDS))
    written = write_report(tmp_path / "out", make_report(bare, results))
    assert not [path for path in written if path.suffix == ".png"]
    assert results[0].name not in json.dumps(missed_thresholds(results[0], {}))
    assert "Facts, one by one" not in (tmp_path / "out/report.html").read_text()


def test_the_first_screen_says_in_words_what_was_lost(report, results):
    page = (report / "report.html").read_text()
    shown = examples(results)
    assert len(shown) == 3
    for fact, target in zip(shown, TARGETS, strict=True):
        first = next(result for result in results if result.target == target)
        rows = [row for row in first.facts if row["view"] == "remaining" and "top5" in row]
        middle = sorted(rows, key=lambda row: row["nll"])[(len(rows) - 1) // 2]
        assert fact["prompt"] == f"a {middle['subject']} is a kind of"
        assert (fact["before"], fact["after_p"]) == ("temple", "20.0 %")
        assert fact["prompt"] in page
    assert page.index('class="examples"') < page.index('class="cards"') < page.index('id="results"')
    assert "The model was trained here" in page


def dom(report, tmp_path, fragment=""):
    """The page's document after its script has run, and what the browser wrote to its log."""
    command = [
        CHROMIUM, *(flag for flag in FLAGS if "pipe" not in flag), f"--user-data-dir={tmp_path}",
        "--virtual-time-budget=2000", "--dump-dom", "--enable-logging=stderr",
        f"file://{report}/report.html{fragment}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


def shown_rows(text):
    body = text[text.index('id="facts-table"') :]
    body = body[body.index("<tbody>") : body.index("</tbody>")]
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in body.split("</tr>")[:-1]]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page with")
def test_the_page_renders_in_a_browser_and_its_table_filters_and_sorts(report, tmp_path):
    text, log = dom(report, tmp_path)
    assert "CONSOLE" not in log
    rows = shown_rows(text)
    assert len(rows) == 12
    assert {row[0] for row in rows} == {"building.n.01-0"}
    assert {(row[1], row[2]) for row in rows} == {("target", "trained")}

    fragment = "#filter=hotel&mask=&facts=&prompts=&sort=NLL+after&order=down"
    text, log = dom(report, tmp_path, fragment)
    assert "CONSOLE" not in log
    rows = shown_rows(text)
    assert len({row[0] for row in rows}) > 1
    assert all("hotel" in " ".join(row) for row in rows)
    losses = [float(row[7]) for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert 'aria-sort="descending"' in text


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page with")
def test_the_order_and_the_filter_are_written_into_the_address(report, tmp_path):
    click = "document.querySelectorAll('#facts-table th button')[7].click()"
    words = "s = document.getElementById('facts-search'); s.value = 'hotel'"
    with browser(tmp_path) as page:
        page.open(f"file://{report}/report.html#results", 420, 900)
        page.wait_for("12 of ")
        assert page.value("location.hash") == "#results"
        assert page.value("document.documentElement.scrollWidth") == 420
        page.value(click)
        page.value(f"{words}; s.dispatchEvent(new Event('input'))")
        address = page.value("location.hash")
    assert address == (
        "#filter=hotel&mask=building.n.01-0&facts=target&prompts=trained&sort=NLL+after&order=up"
    )
    text, _ = dom(report, tmp_path / "again", address)
    rows = shown_rows(text)
    assert rows
    assert all("hotel" in " ".join(row) for row in rows)
    losses = [float(row[7]) for row in rows]
    assert losses == sorted(losses)
