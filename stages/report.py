"""One page, one table, one file of figures: what the pipeline found.

Reads: data/pretrain/model.json, data/train/*/{curve.csv, training.json},
    data/test/*/{figures.json, facts.jsonl}, data/finetune/*/{results.json, curves.csv},
    data/analyze/{structure, overlap, function}.json, data/compared/*.json, params.yaml
Writes: data/report/{summary.json, results.md, figures.csv, report.html, figures/*.png}, and the
    results table of README.md, where it has a place for it
"""

from __future__ import annotations

from pathlib import Path

from knowsub.config import load_params, stage_main

DATA, OUT, README = Path("data"), Path("data/report"), Path("README.md")
ANALYSIS = ("structure", "overlap", "function")


def main(commit: str = "") -> str:
    """Write the report; the commit that it names is found out where it is not given."""
    params = load_params()
    from knowsub.provenance import code_commit, parameters_shown, versions
    from knowsub.report.collect import read_json, read_mask_results
    from knowsub.report.compared_runs import read_summaries
    from knowsub.report.metrics import missed_thresholds, with_dominance
    from knowsub.report.page import Provenance, write_report
    from knowsub.report.tables import results_table, write_readme
    from knowsub.tracking import stage_run

    bars = params.report.thresholds
    with stage_run("report", params) as run:
        items = with_dominance(read_mask_results(DATA, params.targets, params.seeds))
        pins = read_json(DATA / "pretrain/model.json")
        origin = Provenance(
            model=params.pretrain.model,
            fingerprint=str(pins.get("fingerprint", "")),
            parameters=parameters_shown(Path("params.yaml").read_text(encoding="utf-8")),
            commit=commit or code_commit(Path()),
            versions=versions(),
            level=params.test.confidence_level,
        )
        analysis = {name: read_json(DATA / f"analyze/{name}.json") for name in ANALYSIS}
        others = read_summaries(DATA / "compared")
        for path in write_report(OUT, items, analysis, params.report, origin, others):
            run.artifact(path, "figures" if path.suffix == ".png" else None)
        write_readme(README, results_table(items, bars))
        short = {item.name: missed_thresholds(item, bars) for item in items}
        reached = sum(not names for names in short.values())
        run.metrics({"masks": len(items), "masks_reaching_bars": reached})
    worst = [f"{name} misses {', '.join(names)}" for name, names in short.items() if names]
    return "; ".join([f"{reached} of {len(items)} masks reach every bar", *worst])


if __name__ == "__main__":
    stage_main(main)
