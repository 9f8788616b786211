from __future__ import annotations

import pytest

from knowsub.report.collect import read_mask_results, read_summaries


def test_an_untested_mask_is_named(data, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a-7/figures.json: no such file; run the stage"):
        read_mask_results(data, ["a"], [7])
    broken = tmp_path / "test/a-7/figures.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    with pytest.raises(ValueError, match=r"figures\.json: not JSON"):
        read_mask_results(tmp_path, ["a"], [7])


def test_a_missing_folder_of_other_runs_is_empty_and_an_invalid_summary_is_refused(tmp_path):
    assert read_summaries(tmp_path / "none") == {}
    (tmp_path / "bad.json").write_text('{"mean": {}}')
    with pytest.raises(ValueError, match=r"bad\.json: no list of masks"):
        read_summaries(tmp_path)


def test_a_line_separator_within_an_answer_does_not_split_its_row(tmp_path):
    folder = tmp_path / "test/a-0"
    folder.mkdir(parents=True)
    (folder / "figures.json").write_text("{}")
    (folder / "facts.jsonl").write_text('{"object": "a\u2028b"}\n', encoding="utf-8")
    assert read_mask_results(tmp_path, ["a"], [0])[0].facts == [{"object": "a\u2028b"}]
