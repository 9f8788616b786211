"""Facts and text: what is learned, what is to be removed, and what must stay.

Reads: data/raw/wordnet/nouns.tsv.gz, or the files of prepare.source_folder; the templates;
    data/raw/text, or the texts that prepare.text and prepare.other_text name
Writes: data/prepare/facts.jsonl, kg/<target>.jsonl, templates.json, statements.jsonl, unseen.txt,
    counts.json, text/{train,validation,test,other}.txt
"""

from __future__ import annotations

import json
from pathlib import Path

from knowsub.config import load_params, stage_main

OUT = Path("data/prepare")


def main() -> str:
    """Write the facts of every target, and the text, each in its splits."""
    params = load_params()
    from knowsub.kg import sources
    from knowsub.kg.templates import load_templates, needed_templates, write_templates
    from knowsub.text import read_splits, read_text
    from knowsub.tracking import stage_run

    options = params.prepare
    with stage_run("prepare", params) as run:
        facts = sources.collect_facts(params.targets, options)
        wordings = load_templates(Path(params.verbalize.templates))
        wordings = needed_templates(facts.facts, wordings, params.verbalize)
        split_counts = sources.write_fact_splits(OUT, facts, params.targets, options)
        write_templates(OUT / "templates.json", wordings)

        texts, origin = read_splits(
            options.text, options.text_validation_share, options.text_test_share
        )
        texts["other"] = read_text(options.other_text)
        (OUT / "text").mkdir(exist_ok=True)
        for split, text in texts.items():
            (OUT / f"text/{split}.txt").write_text(text, encoding="utf-8", newline="\n")

        characters = {split: len(text) for split, text in texts.items()}
        counts = {
            "read": facts.counts, "kg": split_counts, "characters": characters, "text": origin
        }  # fmt: skip
        (OUT / "counts.json").write_text(json.dumps(counts, indent=1, sort_keys=True) + "\n")
        total = sum(characters.values())
        run.metrics({"facts": len(facts.facts), "characters": total})
        run.artifact(OUT / "counts.json")
    sizes = f"{len(facts.facts)} facts, {len(split_counts)} target KGs, {total} characters"
    drawn = sources.draw_summary(facts, params.targets, options)
    return "; ".join([sizes, *drawn, *sources.without_neighborhood(split_counts)])


if __name__ == "__main__":
    stage_main(main)
