"""The embedded model once more, trained without any target's facts: what ignorance looks like.

Reads: data/pretrain/model.json and model, data/prepare/{facts.jsonl, templates.json},
    data/prepare/kg/<target>.jsonl, data/prepare/text/{train,validation}.txt
Writes: data/retain/model.json and data/retain/model/; nothing where there is no such model
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from knowsub.config import load_params, stage_main

PREPARED, MODEL, OUT = Path("data/prepare"), Path("data/pretrain/model.json"), Path("data/retain")


def main() -> str:
    """Train the embedded model on everything but the targets' facts, in the same way."""
    params = load_params()
    from knowsub.embedded.model import train_embedded, training_statements
    from knowsub.kg.facts import read_facts, read_kg, without_targets
    from knowsub.kg.templates import load_templates
    from knowsub.lm.load import load_model, manifest, open_model
    from knowsub.progress import progress_bar
    from knowsub.tracking import stage_run

    options, forms = params.pretrain, params.verbalize
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "model.json").unlink(missing_ok=True)
    if options.model != "embedded" or not params.retain.enabled:
        return "no model without the targets' facts: the model is pretrained, or none is asked for"
    graphs = [read_kg(PREPARED / f"kg/{target}.jsonl") for target in params.targets]
    facts = without_targets(read_facts(PREPARED / "facts.jsonl"), graphs)
    statements = training_statements(facts, load_templates(PREPARED / "templates.json"), forms)
    _, tokenizer = open_model(MODEL)
    with stage_run("retain", params) as run:
        with progress_bar(options.steps, "retain", run.metrics) as show:

            def log(step: int, losses: Mapping[str, float]) -> None:
                show({"step": float(step), **losses})

            _, metrics = train_embedded(
                statements, PREPARED / "text", OUT / "model", options, log, tokenizer
            )
        pinned = manifest(*load_model(OUT / "model"), "model", "") | {"metrics": metrics}
        run.metrics(metrics)
        (OUT / "model.json").write_text(json.dumps(pinned, indent=1, sort_keys=True) + "\n")
        run.artifact(OUT / "model.json")
    return f"{len(facts)} facts, object perplexity {metrics['object_perplexity']:.3f}"


if __name__ == "__main__":
    stage_main(main)
