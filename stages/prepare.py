"""Facts and text: what is taught, what is to be removed, and what must stay.

Reads: data/raw/wordnet/nouns.tsv.gz, or the files of prepare.source
Writes: data/prepare/facts.jsonl, kg/<target>.jsonl, unseen.txt, counts.json,
    text/{train,validation,test,other}.txt
"""

from __future__ import annotations

import json
from pathlib import Path

from knowsub.config import load_params, stage_main

OUT = Path("data/prepare")


def main() -> str:
    """Write the facts of every target KG, and the text, each in its parts."""
    params = load_params()
    from knowsub.kg.sources import collect_facts, write_fact_splits
    from knowsub.text.corpus import read_splits, read_text
    from knowsub.tracking import stage_run

    options = params.prepare
    with stage_run("prepare", params) as run:
        world = collect_facts(params.targets, options)
        splits = write_fact_splits(OUT, world, params.targets, options)

        shares = options.text_validation_share, options.text_test_share
        text, origin = read_splits(options.text, *shares)
        text["other"] = read_text(options.other_text)
        (OUT / "text").mkdir(exist_ok=True)
        for part, prose in text.items():
            (OUT / f"text/{part}.txt").write_text(prose, encoding="utf-8", newline="\n")

        characters = {part: len(prose) for part, prose in text.items()}
        counts = {"read": world.counts, "kg": splits, "characters": characters, "text": origin}
        (OUT / "counts.json").write_text(json.dumps(counts, indent=1, sort_keys=True) + "\n")
        run.metrics({"facts": len(world.facts), "characters": sum(characters.values())})
        run.artifact(OUT / "counts.json")
    return (
        f"{len(world.facts)} facts, {len(splits)} target KGs, {sum(characters.values())} characters"
    )


if __name__ == "__main__":
    stage_main(main)
