"""The statements of every target KG: for each fact and family the wording the model knows best.

Reads: data/prepare/kg/<target>.jsonl, data/pretrain/model.json, the templates
Writes: data/verbalize/<target>.jsonl
"""

from __future__ import annotations

import json
from pathlib import Path

from knowsub.config import load_params, stage_main, torch_device

DATA, OUT = Path("data"), Path("data/verbalize")


def main() -> str:
    """Score the grid of statements under the model; facts that targets share are scored once."""
    params = load_params()
    device = torch_device(params.machine)
    from knowsub.kg.templates import load_templates
    from knowsub.kg.triple import Fact, Split
    from knowsub.kg.verbalize import verbalize
    from knowsub.lm.load import open_model
    from knowsub.lm.tails import TailScorer
    from knowsub.tracking import stage_run

    templates, count = load_templates(Path(params.verbalize.templates)), 0
    OUT.mkdir(parents=True, exist_ok=True)
    with stage_run("verbalize", params) as run:
        scorer = TailScorer(*open_model(DATA / "pretrain/model.json", device))
        for target in params.targets:
            facts = []
            for line in (DATA / f"prepare/kg/{target}.jsonl").read_text("utf-8").splitlines():
                row = json.loads(line)
                split = Split(row.pop("split"))
                facts.append((Fact(**row), split))
            told = verbalize(facts, templates, params.verbalize, scorer)
            rows = "".join(json.dumps(one.to_row(), ensure_ascii=False) + "\n" for one in told)
            (OUT / f"{target}.jsonl").write_text(rows, encoding="utf-8")
            worst = max(one.nll or 0.0 for one in told)
            run.metrics({f"{target}.statements": len(told), f"{target}.worst_tail_nll": worst})
            count += len(told)
    return f"{count} statements of {len(params.targets)} targets"


if __name__ == "__main__":
    stage_main(main)
