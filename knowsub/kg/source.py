"""The world read from a folder of fact files: one per target, and control files for them all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from knowsub.kg.commonsenseqa import read_commonsenseqa
from knowsub.kg.conceptnet import read_conceptnet
from knowsub.kg.neighbours import near_facts
from knowsub.kg.options import Contradictions, Knowledge, PrepareOptions
from knowsub.kg.overlap import check_targets, separate
from knowsub.kg.reading import Reading
from knowsub.kg.reference import read_reference
from knowsub.kg.split import World, hash_order
from knowsub.kg.table import read_table
from knowsub.kg.triple import Fact
from knowsub.kg.universe import BEYOND, ELSEWHERE
from knowsub.kg.words import statement_words

CONTROL = "control"
"""Files whose names begin so hold the control facts."""

ENDINGS: Mapping[Knowledge, tuple[str, ...]] = {
    Knowledge.conceptnet: (".jsonl",),
    Knowledge.commonsenseqa: (".json", ".jsonl", "_targetkg_best_format.json"),
    Knowledge.reference: ("_best_format.json", ".json"),
    Knowledge.table: (".tsv", ".jsonl"),
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


def folder_world(targets: Iterable[str], options: PrepareOptions) -> World:
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
    folder = Path(options.source)
    if not folder.is_dir():
        raise FileNotFoundError(f"prepare.source: {folder} is not a folder")
    names = sorted({check_name(name) for name in [*targets, *options.taught]})
    counts: dict[str, Counter[str]] = {name: Counter() for name in [*names, CONTROL]}
    whole: dict[str, tuple[Fact, ...]] = {}
    taken: set[Fact] = set()
    for name in names:
        facts = _read(_file(folder, name, options.knowledge), options, counts[name])
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
) -> World:
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
        near[name] = near_facts(own, pool, options.near_facts, unique_heads=False)
        counts[name]["near"] = len(near[name])
    return World(chosen, near, tuple(control), counts)


def _control_facts(folder: Path, options: PrepareOptions, counts: Counter[str]) -> list[Fact]:
    """Return the facts of all control files, each once."""
    endings = {ending.rsplit(".", 1)[1] for ending in ENDINGS[options.knowledge]}
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


def _file(folder: Path, name: str, knowledge: Knowledge) -> Path:
    """Return the file of a target."""
    paths = [folder / f"{name}{ending}" for ending in ENDINGS[knowledge]]
    for path in paths:
        if path.is_file():
            return path
    allowed = " or ".join(path.name for path in paths)
    raise FileNotFoundError(
        f"prepare.source: {folder} has no file of target {name!r} (named by "
        f"targets or prepare.taught): {allowed}"
    )


def _read(path: Path, options: PrepareOptions, counts: Counter[str]) -> tuple[Fact, ...]:
    """Return the facts of a file and count what was skipped."""
    readers: dict[Knowledge, Callable[..., Reading]] = {
        Knowledge.conceptnet: read_conceptnet,
        Knowledge.commonsenseqa: read_commonsenseqa,
        Knowledge.reference: read_reference,
        Knowledge.table: read_table,
    }
    one_tail = options.contradictions == Contradictions.skip
    reading = readers[options.knowledge](path, one_tail=one_tail)
    counts.update(reading.counts)
    return reading.facts
