from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess

import pytest

from knowsub.provenance import code_commit, parameters_shown
from knowsub.report.collect import read_json, read_mask_results
from knowsub.report.compared_runs import compared_runs, read_summaries
from knowsub.report.metrics import (
    mask_figures,
    mean_figures,
    meets_threshold,
    missed_thresholds,
    printed,
    with_dominance,
    worst_figures,
)
from knowsub.report.options import ReportOptions
from knowsub.report.page import Provenance, write_report
from knowsub.report.tables import BEGIN, END, evidence, results_table, with_results, write_readme
from tests.report_setting import METHODS, SEEDS, TARGETS, write_outputs

BARS = {"sparsity": ">= 0.98", "heldout_ppl_ratio": "<= 1.08"}
ORIGIN = Provenance("embedded", "f" * 64, "seeds: [0]\n", "c" * 40, {"python": "3"}, 0.95)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_outputs(folder)
    return folder


@pytest.fixture(scope="module")
def items(data):
    return with_dominance(read_mask_results(data, TARGETS, SEEDS))


def write(out, data, items, others=None, **changes):
    options = ReportOptions(
        **({"title": "T", "max_control_facts": 5, "dpi": 60, "thresholds": BARS} | changes)
    )
    names = ("structure", "overlap", "function")
    analysis = {name: read_json(data / f"analyze/{name}.json") for name in names}
    return write_report(out, items, analysis, options, ORIGIN, others or {})


@pytest.fixture(scope="module")
def report(data, items, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    write(out, data, items)
    return out


def test_the_same_inputs_give_the_same_bytes(report, data, items, tmp_path):
    again = write(tmp_path, data, items)
    assert len(again) == 12
    for path in again:
        other = report / path.relative_to(tmp_path)
        assert path.read_bytes() == other.read_bytes(), path.name


def test_the_summary_has_one_object_per_mask_and_means_per_method(report):
    summary = json.loads((report / "summary.json").read_text())
    masks = summary["masks"]
    assert [(mask["target"], mask["seed"]) for mask in masks] == [
        (target, seed) for target in TARGETS for seed in SEEDS
    ]
    assert {"sparsity", "removed_share", "target_ppl_ratio", "all_removed_target_ppl_ratio",
            "head_target_accuracy", "random_p"} <= masks[0].keys()  # fmt: skip
    assert "text_vs_random" not in masks[0]
    assert masks[0]["diagonal_dominance"] == pytest.approx(7.5 / 0.3)
    assert [row["method"] for row in summary["baselines"]] == list(METHODS)
    assert summary["mean"]["head_target_accuracy"] == pytest.approx(0.33)


def test_means_of_ppl_ratios_are_geometric_and_the_worst_is_on_the_bad_side():
    rows = [{"target_ppl_ratio": 10.0, "random_p": 0.1}, {"target_ppl_ratio": 1000.0}]
    assert mean_figures(rows) == pytest.approx({"target_ppl_ratio": 100.0, "random_p": 0.1})
    assert worst_figures([{"neighborhood_ppl_ratio": 0.5}, {"neighborhood_ppl_ratio": 1.5}]) == {
        "neighborhood_ppl_ratio": 0.5
    }
    assert worst_figures(rows)["target_ppl_ratio"] == 10.0


@pytest.mark.parametrize(
    ("value", "bar", "expected"),
    [(0.98, ">= 0.98", True), (0.9799, ">= 0.98", False), (1.05, "<= 1.05", True),
     (1.06, "<=1.05", False), (1.0, None, None), (None, ">= 1", False),
     (float("nan"), "<= 1", False)],
)  # fmt: skip
def test_a_figure_meets_its_bar_or_is_marked(value, bar, expected):
    assert meets_threshold(value, bar) is expected


def test_a_bar_on_a_figure_of_the_evidence_is_shown_and_marked_where_it_is_missed(items):
    bars = {"forgetting": ">= 2", "random_p": "<= 1"}
    rows = {row["label"]: row for group in evidence(items, bars) for row in group["rows"]}
    assert rows["forgetting"]["bar"] == ">= 2"
    assert all(cell["missed"] for cell in rows["forgetting"]["cells"])
    assert not any(cell["missed"] for cell in rows["p against random"]["cells"])
    assert {row["bar"] for row in rows.values()} == {"", ">= 2", "<= 1"}


def test_a_missed_bar_is_marked_in_the_table_and_on_the_page(report, items):
    short = [item for item in items if missed_thresholds(item, BARS)]
    assert short
    table = (report / "results.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert [("✗" in row) for row in rows] == [item in short for item in items]
    page = (report / "report.html").read_text()
    assert f"{len(items) - len(short)} of {len(items)}" in page
    assert 'class="missed" title="misses its bar"' in page


def test_the_readme_gets_the_table_between_its_markers_and_nothing_else(items, tmp_path):
    table = results_table(items, BARS)
    readme = tmp_path / "README.md"
    assert not write_readme(readme, table)
    readme.write_text("no place")
    assert not write_readme(readme, table)
    assert readme.read_text() == "no place"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert write_readme(readme, table)
    text = readme.read_text()
    assert text == f"before\n{BEGIN}\n{table}{END}\nafter\n"
    assert with_results(text, table) == text
    assert not re.search(r"20\d\d-", table)


def test_figures_csv_holds_every_figure_with_its_interval(report):
    with (report / "figures.csv").open() as file:
        rows = list(csv.DictReader(file))
    one = next(row for row in rows if row["figure"] == "forgetting" and row["method"] == "trained")
    assert (one["low"], one["high"]) == ("0.96", "0.99")
    assert {row["method"] for row in rows} == {"trained", *METHODS}


def test_the_page_is_small_and_fetches_nothing(report):
    page = (report / "report.html").read_text()
    assert len(page.encode()) < 5_000_000
    sources = re.findall(r"(?:src|href)\s*=\s*[\"']?([^\"'\s>]+)", page)
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp|<link[^>]+stylesheet", page)


def test_answers_cannot_break_out_of_the_page(report):
    page = (report / "report.html").read_text()
    assert page.count("</script>") == 2


def test_a_mask_without_optional_figures_is_still_reported(data, tmp_path):
    bare = tmp_path / "data"
    shutil.copytree(data / "test", bare / "test")
    for path in bare.glob("test/*/facts.jsonl"):
        path.unlink()
    for path in bare.glob("test/*/figures.json"):
        path.write_text(json.dumps({"figures": {"sparsity": 0.99}}))
    items = with_dominance(read_mask_results(bare, TARGETS, SEEDS))
    written = write(tmp_path / "out", bare, items)
    assert not [path for path in written if path.suffix == ".png"]
    assert items[0].name not in json.dumps(missed_thresholds(items[0], {}))
    assert "Facts, one by one" not in (tmp_path / "out/report.html").read_text()


def test_an_untested_mask_is_named(data, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a-7/figures.json: no such file; run the stage"):
        read_mask_results(data, ["a"], [7])
    broken = tmp_path / "test/a-7/figures.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    with pytest.raises(ValueError, match=r"figures\.json: not JSON"):
        read_mask_results(tmp_path, ["a"], [7])


def test_parameters_that_change_no_result_are_not_shown():
    text = "seeds: [0]\nmachine:\n  threads: 2\ntrain:\n  lr: 1\n# end\ntrack:\n  a: b\n"
    assert parameters_shown(text) == "seeds: [0]\ntrain:\n  lr: 1\n# end\n"


def test_the_commit_is_the_last_one_that_changed_the_sources(tmp_path):
    def git(*words):
        identity = ["-c", "user.name=n", "-c", "user.email=e@e", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True)

    assert code_commit(tmp_path) == "unknown"
    git("init")
    (tmp_path / "params.yaml").write_text("a: 1\n")
    git("add", ".")
    git("commit", "-m", "code")
    first = code_commit(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", first)
    (tmp_path / "dvc.lock").write_text("results\n")
    git("add", ".")
    git("commit", "-m", "results")
    assert code_commit(tmp_path) == first
    (tmp_path / "params.yaml").write_text("a: 2\n")
    assert code_commit(tmp_path) == f"{first}, changed since"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [("sparsity", 0.98061, "98.06 %"), ("target_ppl_ratio", 1770.4, "1,770"),
     ("target_ppl_ratio", 6374000.0, "6.4e6"), ("control_ppl_ratio", 1.0123, "1.012"),
     ("random_p", 0.0001, "1e-4"), ("random_p", None, "–"), ("target_median_rank", 39.0, "39.0")],
)  # fmt: skip
def test_figures_are_printed_with_the_digits_that_matter(name, value, text):
    assert printed(name, value) == text


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def dom(report, tmp_path, fragment=""):
    """The page's document after its script has run, and what the browser wrote to its log."""
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path}", "--virtual-time-budget=2000", "--dump-dom",
        "--enable-logging=stderr", f"file://{report}/report.html{fragment}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


def shown(text):
    body = text[text.index('id="facts-table"') :]
    body = body[body.index("<tbody>") : body.index("</tbody>")]
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in body.split("</tr>")[:-1]]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page with")
def test_the_page_renders_in_a_browser_and_its_table_filters_and_sorts(report, tmp_path):
    text, log = dom(report, tmp_path)
    assert "CONSOLE" not in log
    rows = shown(text)
    assert len(rows) == 12
    assert {row[0] for row in rows} == {"building.n.01-0"}
    assert {(row[1], row[2]) for row in rows} == {("target", "trained")}

    fragment = "#filter=hotel&mask=&facts=&prompts=&sort=NLL+after&order=down"
    text, log = dom(report, tmp_path, fragment)
    assert "CONSOLE" not in log
    rows = shown(text)
    assert len({row[0] for row in rows}) > 1
    assert all("hotel" in " ".join(row) for row in rows)
    losses = [float(row[6]) for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert 'aria-sort="descending"' in text


def test_other_runs_stand_beside_this_one_with_their_range_and_the_bars_they_miss(
    report, data, items, tmp_path
):
    compared = tmp_path / "compared"
    compared.mkdir()
    shutil.copy(report / "summary.json", compared / "again.json")
    less = {"masks": [{"target": "t", "seed": s, "sparsity": 0.97 + 0.02 * s} for s in (0, 1)]}
    (compared / "less.json").write_text(json.dumps(less))
    others = read_summaries(compared)
    table = compared_runs([mask_figures(item) for item in items], others, BARS)
    assert [(row["name"], row["masks"]) for row in table["rows"]] == [
        ("this run", 6), ("again", 6), ("less", 2)
    ]  # fmt: skip
    own, again, less_row = table["rows"]
    assert own["cells"] == again["cells"]
    assert less_row["cells"][0] == {"text": "98.00 %", "range": "97.00 % to 99.00 %", "missed": 1}
    assert {cell["text"] for cell in less_row["cells"][1:]} == {"–"}
    page = next(path for path in write(tmp_path, data, items, others) if path.suffix == ".html")
    assert ">97.00 % to 99.00 %<" in page.read_text()
    assert "Other runs" not in (report / "report.html").read_text()


def test_no_folder_of_other_runs_is_none_and_what_is_no_summary_is_refused(tmp_path):
    assert read_summaries(tmp_path / "none") == {}
    (tmp_path / "bad.json").write_text('{"mean": {}}')
    with pytest.raises(ValueError, match=r"bad\.json: no list of masks"):
        read_summaries(tmp_path)
