"""Where `prepare` takes its facts from: WordNet, or a folder of files, one per target and control files for all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from knowsub.kg import wordnet
from knowsub.kg.build import FactSplits, build_kg, hash_order, neighborhood_facts
from knowsub.kg.facts import Fact, statement_words, write_facts, write_kg
from knowsub.kg.options import Contradictions, FactSource, PrepareOptions
from knowsub.kg.overlap import check_targets, separate
from knowsub.kg.readers import (
    ParsedFacts,
    read_commonsenseqa,
    read_conceptnet,
    read_reference,
    read_table,
)
from knowsub.kg.unseen import unseen_entities
from knowsub.kg.wordnet_facts import BEYOND, ELSEWHERE, wordnet_facts

CONTROL = "control"
"""Files whose names begin so hold the control facts."""

ENDINGS: Mapping[FactSource, tuple[str, ...]] = {
    FactSource.conceptnet: (".jsonl",),
    FactSource.commonsenseqa: (".json", ".jsonl", "_targetkg_best_format.json"),
    FactSource.reference: ("_best_format.json", ".json"),
    FactSource.table: (".tsv", ".jsonl"),
}
"""What follows a target's name in the name of its file, by kind of source."""


def check_name(name: str) -> str:
    """Return a target's name if it can name a file inside a folder.

    Args:
        name: The target.

    Returns:
        The name.

    Raises:
        ValueError: If it is empty or `control`, or could lead out of the folder.
    """
    wrong = not name.strip() or name.startswith(".") or ".." in name
    if wrong or any(sign in name for sign in "/\\:\0\n\t") or name == CONTROL:
        raise ValueError(
            f"targets: value {name!r} is not allowed; allowed: a name without path separators "
            f"and '..', not {CONTROL!r}"
        )
    return name


def folder_facts(targets: Iterable[str], options: PrepareOptions) -> FactSplits:
    """Return the facts of a folder's target files and the control facts apart from them.

    Args:
        targets: Names asked for; `options.taught` are added to them.
        options: Where the folder is, sizes and limits.

    Returns:
        The world. Control facts that share a word with a target, but are not one of its facts,
        become near facts where overlap is filtered.

    Raises:
        FileNotFoundError: If the folder or a file is missing.
        ValueError: If a name leads out of the folder, a file is wrong, a target is too small, or
            target and control overlap and that is refused.
    """
    folder = Path(options.source_folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"prepare.source: {folder} is not a folder")
    names = sorted({check_name(name) for name in [*targets, *options.extra_targets]})
    counts: dict[str, Counter[str]] = {name: Counter() for name in [*names, CONTROL]}
    whole: dict[str, tuple[Fact, ...]] = {}
    taken: set[Fact] = set()
    for name in names:
        facts = _read(_file(folder, name, options.fact_source), options, counts[name])
        whole[name] = tuple(fact for fact in facts if fact not in taken)
        taken |= set(facts)
        beyond = max(0, len(whole[name]) - options.target_facts)
        counts[name].update({ELSEWHERE: len(facts) - len(whole[name]), BEYOND: beyond})
        counts[name]["target"] = len(whole[name]) - beyond
    check_targets(whole)
    return _with_control(folder, whole, options, counts)


def _with_control(
    folder: Path,
    whole: Mapping[str, tuple[Fact, ...]],
    options: PrepareOptions,
    counts: Mapping[str, Counter[str]],
) -> FactSplits:
    """Return the world of some targets with the folder's control and near facts."""
    facts = _control_facts(folder, options, counts[CONTROL])
    # Facts beyond a target's size are kept out of control all the same.
    targets = [fact for own in whole.values() for fact in own]
    parts = separate(targets, facts, options.overlap)
    counts[CONTROL].update(parts.counts)
    control = hash_order(parts.kept, options.seed, "control facts")[: options.control_facts]
    counts[CONTROL].update({BEYOND: len(parts.kept) - len(control), CONTROL: len(control)})
    words = {statement_words(fact) for fact in targets}
    pool = [overlap.control for overlap in parts.dropped]
    pool = [fact for fact in pool if statement_words(fact) not in words]
    near = {}
    chosen = {name: own[: options.target_facts] for name, own in whole.items()}
    for name, own in chosen.items():
        near[name] = neighborhood_facts(own, pool, options.neighborhood_facts, unique_heads=False)
        counts[name]["near"] = len(near[name])
    return FactSplits(chosen, near, tuple(control), counts)


def _control_facts(folder: Path, options: PrepareOptions, counts: Counter[str]) -> list[Fact]:
    """Return the facts of all control files, each once."""
    endings = {ending.rsplit(".", 1)[1] for ending in ENDINGS[options.fact_source]}
    files = sorted(
        path for path in folder.glob(f"{CONTROL}*.*") if path.suffix.removeprefix(".") in endings
    )
    if not files:
        shown = " or ".join(f"{CONTROL}*.{ending}" for ending in sorted(endings))
        raise FileNotFoundError(f"prepare.source: {folder} has no control file; allowed: {shown}")
    found: dict[Fact, None] = {}
    for path in files:
        found |= dict.fromkeys(_read(path, options, counts))
    return list(found)


def _file(folder: Path, name: str, knowledge: FactSource) -> Path:
    """Return the file of a target."""
    paths = [folder / f"{name}{ending}" for ending in ENDINGS[knowledge]]
    for path in paths:
        if path.is_file():
            return path
    allowed = " or ".join(path.name for path in paths)
    raise FileNotFoundError(
        f"prepare.source: {folder} has no file of target {name!r} (named by "
        f"targets or prepare.extra_targets): {allowed}"
    )


def _read(path: Path, options: PrepareOptions, counts: Counter[str]) -> tuple[Fact, ...]:
    """Return the facts of a file and count what was skipped."""
    readers: dict[FactSource, Callable[..., ParsedFacts]] = {
        FactSource.conceptnet: read_conceptnet,
        FactSource.commonsenseqa: read_commonsenseqa,
        FactSource.reference: read_reference,
        FactSource.table: read_table,
    }
    one_tail = options.contradictions == Contradictions.skip
    reading = readers[options.fact_source](path, one_tail=one_tail)
    counts.update(reading.counts)
    return reading.facts


def collect_facts(targets: Sequence[str], options: PrepareOptions) -> FactSplits:
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
    if options.fact_source == FactSource.wordnet:
        return wordnet_facts(wordnet.load(), targets, options)
    return folder_facts(targets, options)


def write_fact_splits(
    folder: Path, world: FactSplits, targets: Sequence[str], options: PrepareOptions
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
    heads = unseen_entities(
        (fact.subject_words for fact in wordnet.load().facts()), world.facts,
        words=options.max_subject_words, most=options.unseen_entities, seed=options.seed,
    )  # fmt: skip
    (folder / "unseen.txt").write_text("".join(f"{head}\n" for head in heads), encoding="utf-8")
    return counts
