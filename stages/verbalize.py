"""The statements of every target KG: for each fact and family the wording the model knows best.

Reads: data/prepare/kg/<target>.jsonl, data/prepare/unseen.txt, data/pretrain/model.json,
    the templates
Writes: data/verbalize/<target>.jsonl and unseen/<target>.jsonl
"""

from __future__ import annotations

from pathlib import Path

from knowsub.config import load_params, stage_main, torch_device

DATA, OUT = Path("data"), Path("data/verbalize")


def main() -> str:
    """Score the grid of statements under the model; facts that targets share are scored once."""
    params = load_params()
    device = torch_device(params.machine)
    from knowsub.kg.facts import Split, read_kg, write_statements
    from knowsub.kg.templates import load_templates, verbalize
    from knowsub.kg.unseen import unseen_facts
    from knowsub.lm.load import open_model
    from knowsub.lm.score import ObjectScorer
    from knowsub.tracking import stage_run

    heads = (DATA / "prepare/unseen.txt").read_text("utf-8").splitlines()
    options, most = params.verbalize, params.prepare.unseen_facts
    templates, count = load_templates(Path(options.templates)), 0
    OUT.mkdir(parents=True, exist_ok=True)
    with stage_run("verbalize", params) as run:
        scorer = ObjectScorer(*open_model(DATA / "pretrain/model.json", device))
        for target in params.targets:
            facts = read_kg(DATA / f"prepare/kg/{target}.jsonl")
            told = verbalize(facts, templates, options, scorer)
            goal = [fact for fact, split in facts if split is Split.TARGET]
            believed = unseen_facts(goal, heads, templates, options, most, scorer.first_tokens)
            write_statements(OUT / f"{target}.jsonl", told)
            write_statements(
                OUT / f"unseen/{target}.jsonl",
                verbalize(believed, templates, options, scorer, training_alone=True),
            )
            worst = max(one.nll or 0.0 for one in told)
            run.metrics({f"{target}.statements": len(told), f"{target}.worst_tail_nll": worst})
            count += len(told)
    return f"{count} statements of {len(params.targets)} targets"


if __name__ == "__main__":
    stage_main(main)
