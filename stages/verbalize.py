"""The statements of every target: for each fact and family the wording the model knows best.

Reads: data/prepare/kg/<target>.jsonl, data/prepare/{templates.json, statements.jsonl, unseen.txt},
    data/pretrain/model.json
Writes: data/verbalize/<target>.jsonl and unseen/<target>.jsonl
"""

from __future__ import annotations

from pathlib import Path

from knowsub.config import load_params, stage_main, torch_device

DATA, OUT = Path("data"), Path("data/verbalize")


def main() -> str:
    """Score every wording of every fact under the model; write the likeliest ones."""
    params = load_params()
    device = torch_device(params.machine)
    from knowsub.kg.facts import Split, read_kg, write_statements
    from knowsub.kg.given import read_given
    from knowsub.kg.known import Scorers, known_facts, state_facts, statement_metrics
    from knowsub.kg.templates import load_templates
    from knowsub.kg.unseen import unseen_facts
    from knowsub.kg.verbalize import short_objects, verbalize
    from knowsub.lm.load import open_model, read_manifest
    from knowsub.lm.score import ObjectScorer
    from knowsub.tracking import stage_run

    entities = (DATA / "prepare/unseen.txt").read_text("utf-8").splitlines()
    options, asked, limit = params.verbalize, params.prepare, params.prepare.unseen_facts
    templates, count, summary = load_templates(DATA / "prepare/templates.json"), 0, ""
    given, model = read_given(DATA / "prepare/statements.jsonl"), DATA / "pretrain/model.json"
    with stage_run("verbalize", params) as run:
        scorer, name = ObjectScorer(*open_model(model, device)), read_manifest(model)["path"]
        scorers = Scorers(scorer, scorer.ranks, scorer.first_tokens)
        for target in params.targets:
            kg = read_kg(DATA / f"prepare/kg/{target}.jsonl")
            kg = short_objects(kg, scorer.object_tokens, options.max_object_tokens)
            known = known_facts(kg, templates, options, scorers, asked)
            statements = state_facts(known.kg, templates, options, scorer, given, name)
            write_statements(OUT / f"{target}.jsonl", statements)
            facts, predict = known.of(Split.TARGET), scorers.predict
            unseen = unseen_facts(facts, entities, templates, options, limit, predict)
            write_statements(
                OUT / f"unseen/{target}.jsonl",
                verbalize(unseen, templates, options, scorer, training_only=True),
            )
            metrics = statement_metrics(statements) | known.counts
            run.metrics({f"{target}.{key}": value for key, value in metrics.items()})
            count, summary = count + len(statements), summary + known.summary(target)
    return f"{count} statements of {len(params.targets)} targets{summary}"


if __name__ == "__main__":
    stage_main(main)
