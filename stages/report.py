"""Writes the report: one page, tables, figures and the summary of the whole pipeline.

Reads: data/pretrain/model.json, data/train/*/{curve.csv, training.json},
    data/test/*/{figures.json, facts.jsonl}, data/finetune/*/{results.json, curves.csv},
    data/analyze/{structure, overlap, ablations}.json, data/compared/*.json, params.yaml
Writes: data/report/{summary.json, results.md, metrics.csv, report.html, figures/*.png}, and the
    results tables of README.md and docs/results.md, between their markers
"""

from __future__ import annotations

from pathlib import Path

from knowsub.config import load_params, stage_main

DATA, OUT = Path("data"), Path("data/report")
README, DOCS = Path("README.md"), Path("docs/results.md")


def main(commit: str = "") -> str:
    """Write the report; git says which commit it names where none is given."""
    params = load_params()
    from knowsub.provenance import code_commit, parameters_shown, versions
    from knowsub.report.collect import read_analysis, read_json, read_mask_results, read_summaries
    from knowsub.report.cross import with_dominance
    from knowsub.report.metrics import missed_thresholds
    from knowsub.report.page import Provenance, Report, write_report
    from knowsub.report.tables import write_tables
    from knowsub.tracking import stage_run

    thresholds = params.report.thresholds
    with stage_run("report", params) as run:
        results = with_dominance(read_mask_results(DATA, params.targets, params.seeds))
        provenance = Provenance(
            model=params.pretrain.model,
            fingerprint=str(read_json(DATA / "pretrain/model.json").get("fingerprint", "")),
            parameters=parameters_shown(Path("params.yaml").read_text(encoding="utf-8")),
            commit=commit or code_commit(Path()),
            versions=versions(),
            confidence_level=params.test.confidence_level,
        )
        analysis, compared = read_analysis(DATA), read_summaries(DATA / "compared")
        report = Report(results, analysis, compared, params.report, provenance)
        for path in write_report(OUT, report):
            run.artifact(path, "figures" if path.suffix == ".png" else "")
        write_tables(README, DOCS, results, thresholds)
        missed = {result.name: missed_thresholds(result, thresholds) for result in results}
        passed = sum(not names for names in missed.values())
        run.metrics({"masks": len(results), "masks_meeting_thresholds": passed})
    misses = [f"{name} misses {', '.join(names)}" for name, names in missed.items() if names]
    return "; ".join([f"{passed} of {len(results)} masks meet every threshold", *misses])


if __name__ == "__main__":
    stage_main(main)
