"""Facts from wherever `prepare` is told to take them, and all of them on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from knowsub.kg import wordnet
from knowsub.kg.files import write_facts, write_kg
from knowsub.kg.options import Knowledge, PrepareOptions
from knowsub.kg.source import folder_world
from knowsub.kg.split import World, build_kg
from knowsub.kg.universe import wordnet_world
from knowsub.kg.untold import untold_heads


def read_world(targets: Sequence[str], options: PrepareOptions) -> World:
    """Return the facts of all targets and the control facts apart from them.

    Args:
        targets: Names of the target KGs.
        options: Say where the facts are.

    Returns:
        The facts.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: As in `wordnet_world` and `folder_world`.
    """
    if options.knowledge == Knowledge.wordnet:
        return wordnet_world(wordnet.load(), targets, options)
    return folder_world(targets, options)


def write_world(
    folder: Path, world: World, targets: Sequence[str], options: PrepareOptions
) -> Mapping[str, Counter[str]]:
    """Write all facts, each target KG with its parts, and nouns that no fact speaks of.

    Args:
        folder: Where to.
        world: The facts.
        targets: Names of the target KGs.
        options: Shares of the parts, number of nouns.

    Returns:
        Facts per part of each target KG.

    Raises:
        ValueError: As in `build_kg`.
    """
    counts = {}
    for target in targets:
        facts = build_kg(
            world, target, options.validation_share, options.heldout_share, options.seed
        )
        write_kg(folder / f"kg/{target}.jsonl", facts)
        counts[target] = Counter(split.value for _, split in facts)
    write_facts(folder / "facts.jsonl", world.facts)
    heads = untold_heads(
        (fact.head_words for fact in wordnet.load().facts()), world.facts,
        words=options.max_head_words, most=options.untold_heads, seed=options.seed,
    )  # fmt: skip
    (folder / "untold.txt").write_text("".join(f"{head}\n" for head in heads), encoding="utf-8")
    return counts
