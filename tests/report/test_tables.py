from __future__ import annotations

import csv
import json
import re
import shutil

from knowsub.report.collect import read_summaries
from knowsub.report.metrics import missed_thresholds
from knowsub.report.page import render
from knowsub.report.tables import (
    BEGIN,
    END,
    compared_runs,
    evidence,
    full_table,
    readme_table,
    write_tables,
)
from tests.report.setting import METHODS, THRESHOLDS, make_report


def test_a_threshold_on_a_metric_of_the_evidence_is_shown_and_marked_where_it_is_missed(results):
    thresholds = {"forgetting": ">= 2", "random_p": "<= 1"}
    rows = {row["label"]: row for group in evidence(results, thresholds) for row in group["rows"]}
    assert rows["forgetting"]["threshold"] == ">= 2"
    assert all(cell["missed"] for cell in rows["forgetting"]["cells"])
    assert not any(cell["missed"] for cell in rows["p against random masks"]["cells"])
    assert {row["threshold"] for row in rows.values()} == {"", ">= 2", "<= 1"}


def test_a_missed_threshold_is_marked_in_the_table_and_on_the_page(report, results):
    short = [result for result in results if missed_thresholds(result, THRESHOLDS)]
    assert short
    table = (report / "results.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert [("✗" in row) for row in rows] == [result in short for result in results]
    page = (report / "report.html").read_text()
    met = f"{len(results) - len(short)} of {len(results)}"
    assert met in page
    assert f"{met} masks meet all 2 thresholds" in readme_table(results, THRESHOLDS)
    assert 'class="missed" title="misses its threshold"' in page


def test_the_readme_table_has_six_columns_and_the_other_one_all(results):
    short, full = (make(results, THRESHOLDS) for make in (readme_table, full_table))
    header = [line.strip("| ").split(" | ") for line in (short, full)]
    assert short.splitlines()[0].count("|") == 7
    assert full.splitlines()[0].count("|") == 14
    assert set(header[0][0:2]) <= set(header[1])
    assert not re.search(r"20\d\d-", short + full)


def test_the_tables_are_written_between_the_markers_and_nowhere_else(results, tmp_path):
    readme, docs = tmp_path / "README.md", tmp_path / "results.md"
    write_tables(readme, docs, results, THRESHOLDS)
    assert not readme.exists()
    assert not docs.exists()
    readme.write_text("no markers")
    docs.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_tables(readme, docs, results, THRESHOLDS)
    assert readme.read_text() == "no markers"
    table = full_table(results, THRESHOLDS)
    assert docs.read_text() == f"before\n{BEGIN}\n{table}{END}\nafter\n"
    readme.write_text(f"{BEGIN}{END}")
    for _ in range(2):
        write_tables(readme, docs, results, THRESHOLDS)
        assert readme.read_text() == f"{BEGIN}\n{readme_table(results, THRESHOLDS)}{END}"
        assert docs.read_text() == f"before\n{BEGIN}\n{table}{END}\nafter\n"


def test_metrics_csv_holds_every_metric_with_its_interval(report):
    with (report / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    trained = [row for row in rows if row["method"] == "trained"]
    forgetting = next(row for row in trained if row["metric"] == "forgetting")
    assert (forgetting["low"], forgetting["high"]) == ("0.96", "0.99")
    assert {row["method"] for row in rows} == {"trained", *METHODS}


def test_other_runs_are_compared_by_median_range_and_missed_thresholds(
    report, data, results, tmp_path
):
    compared = tmp_path / "compared"
    compared.mkdir()
    shutil.copy(report / "summary.json", compared / "again.json")
    less = {"masks": [{"target": "t", "seed": s, "sparsity": 0.97 + 0.02 * s} for s in (0, 1)]}
    (compared / "less.json").write_text(json.dumps(less))
    others = read_summaries(compared)
    table = compared_runs(results, others, THRESHOLDS)
    assert [(row["name"], row["masks"]) for row in table["rows"]] == [
        ("this run", 6), ("again", 6), ("less", 2)
    ]  # fmt: skip
    this, again, less_row = table["rows"]
    assert this["cells"] == again["cells"]
    assert less_row["cells"][0] == {"text": "98.00 %", "range": "97.00 % to 99.00 %", "missed": 1}
    assert {cell["text"] for cell in less_row["cells"][1:]} == {"–"}
    page = render(make_report(data, results, others), figures=[])
    assert ">97.00 % to 99.00 %<" in page
    assert "Other runs" not in (report / "report.html").read_text()
