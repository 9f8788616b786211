"""Facts of a folder of files: one file per target, and control files.

The names that the published files have are read as they are, in the folder or in its subfolders
that the reference has.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from knowsub.kg.build import (
    FactSplits,
    check_targets,
    draw_facts,
    hash_order,
    neighborhood_facts,
    separate,
)
from knowsub.kg.facts import Fact, statement_words
from knowsub.kg.given import GivenStatement
from knowsub.kg.options import Contradictions, FactSource, PrepareOptions
from knowsub.kg.readers import (
    ParsedFacts,
    read_commonsenseqa,
    read_conceptnet,
    read_reference,
    read_table,
)

CONTROL = "control"
"""Files whose names begin so, or have `_controlkg` in them, hold the control facts."""

Counts = Mapping[str, Counter[str]]
"""By target and for `control`: facts kept, and facts left out by reason [facts]."""

ELSEWHERE = "belongs to another target, which is closer"
BEYOND = "beyond the number of facts asked for"
REPEATED = "the same fact as in another file"


def folder_facts(targets: Iterable[str], options: PrepareOptions) -> FactSplits:
    """Return the facts of a folder's target files and the control facts apart from them.

    Control facts that share a word with a target, but are not one of its facts, become neighborhood
    facts where overlap is filtered.
    """
    folder = Path(options.source_folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"prepare.source_folder: {folder} is not a folder")
    names = sorted({check_name(name) for name in [*targets, *options.extra_targets]})
    counts: Counts = {name: Counter() for name in [*names, CONTROL]}
    whole: dict[str, tuple[Fact, ...]] = {}
    taken: set[tuple[str, str, str]] = set()
    given: list[GivenStatement] = []
    for name in names:
        paths = target_files(folder, name, options.fact_source)
        read = _read(paths, options, counts[name], given)
        whole[name] = tuple(fact for fact in read if statement_words(fact) not in taken)
        taken |= set(map(statement_words, read))
        beyond = max(0, len(whole[name]) - options.target_candidates)
        counts[name].update({ELSEWHERE: len(read) - len(whole[name]), BEYOND: beyond})
        counts[name]["target"] = len(whole[name]) - beyond
    check_targets(whole)
    # Facts beyond a target's size are kept out of control all the same.
    in_targets = [fact for facts in whole.values() for fact in facts]
    control, validation, dropped = _folder_control(folder, in_targets, options, counts, given)
    target_facts = {
        name: draw_facts(facts, options.target_candidates, options.seed, "target facts")
        for name, facts in whole.items()
    }
    neighborhood = {
        name: neighborhood_facts(facts, dropped, options.neighborhood_facts, unique_subjects=False)
        for name, facts in target_facts.items()
    }
    for name, facts in neighborhood.items():
        counts[name]["neighborhood"] = len(facts)
    return FactSplits(target_facts, neighborhood, control, counts, validation, tuple(given))


def _folder_control(
    folder: Path,
    in_targets: Sequence[Fact],
    options: PrepareOptions,
    counts: Counts,
    given: list[GivenStatement],
) -> tuple[tuple[Fact, ...], tuple[Fact, ...], list[Fact]]:
    """Return the control facts, those that are for validation, and those that overlap a target."""
    read = _read(control_files(folder, options.fact_source), options, counts[CONTROL], given)
    separation = separate(in_targets, list(read), options.overlap)
    order = hash_order(separation.kept, options.seed, "control facts")
    control = tuple(order[: options.control_facts])
    beyond = len(separation.kept) - len(control)
    counts[CONTROL].update({**separation.counts, BEYOND: beyond, CONTROL: len(control)})
    validation = tuple(fact for fact in control if read[fact])
    if len(validation) == len(control):  # there is nothing else to train on
        validation = ()
    stated = {statement_words(fact) for fact in in_targets}
    overlapping = (overlap.control for overlap in separation.dropped)
    dropped = [fact for fact in overlapping if statement_words(fact) not in stated]
    return control, validation, dropped


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


_ENDINGS: Mapping[FactSource, tuple[str, ...]] = {
    FactSource.conceptnet: (".jsonl",),
    FactSource.commonsenseqa: (".json", ".jsonl", "_targetkg_best_format.json"),
    FactSource.reference: ("_best_format.json", "_targetkg_best_format.json", ".json"),
    FactSource.table: (".tsv", ".jsonl"),
}
"""What follows a target's name in the name of its file."""

SUBFOLDERS = frozenset({"targetkg", "controlkg", "best_format", "worse_format"})
"""Folders below the given one that are looked into: those of the reference."""
PARAPHRASES = "_worse_format"
"""In place of `_best_format` in a file's name: the file of its paraphrases."""


def target_files(folder: Path, name: str, source: FactSource) -> list[Path]:
    """Return the files of one target.

    Args:
        folder: The folder of the source.
        name: The target, checked by `check_name`.
        source: Kind of the files.

    Returns:
        One file, or its numbered parts: `csqa` has `csqa1_targetkg_best_format.json` and `csqa2...`
        where there is no file of its own. `building.n.01` also has the reference's
        `Synset('building.n.01')_best_format.json`.

    Raises:
        FileNotFoundError: If there is none, naming what was looked for.
        ValueError: If two subfolders have the same file.
    """
    stems = [name, f"Synset('{name}')"] if source is FactSource.reference else [name]
    files = _files(folder)
    wanted = [f"{stem}{ending}" for ending in _ENDINGS[source] for stem in stems]
    for file_name in wanted:
        if found := [path for path in files if path.name == file_name]:
            if len(found) > 1:
                raise ValueError(f"prepare.source_folder: {found[0]} and {found[1]} are one target")
            return found
    for ending in _ENDINGS[source]:
        part = re.compile(rf"{re.escape(name)}\d+{re.escape(ending)}")
        if parts := [path for path in files if part.fullmatch(path.name)]:
            return sorted(parts, key=lambda path: (len(path.name), path.name))
    raise FileNotFoundError(
        f"prepare.source_folder: {folder} has no file of target {name!r} (named by "
        f"targets or prepare.extra_targets): {' or '.join(wanted)}"
    )


def control_files(folder: Path, source: FactSource) -> list[Path]:
    """Return the control files of a folder; FileNotFoundError if there is none."""
    suffixes = {f".{ending.rpartition('.')[2]}" for ending in _ENDINGS[source]}
    files = [
        path
        for path in _files(folder)
        if (path.name.startswith(CONTROL) or "_controlkg" in path.name)
        and path.suffix in suffixes
        and PARAPHRASES not in path.name
    ]
    if not files:
        allowed = " or ".join(f"{CONTROL}*{suffix}" for suffix in sorted(suffixes))
        raise FileNotFoundError(
            f"prepare.source_folder: {folder} has no control file; allowed: {allowed}"
        )
    return files


def _files(folder: Path) -> list[Path]:
    """Return the files of a folder and of its subfolders that are looked into, by their paths."""
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name in SUBFOLDERS:
            found += _files(path)
        elif path.is_file():
            found.append(path)
    return found


def _is_validation(path: Path) -> bool:
    """Return whether a control file's name says that it is for validation."""
    return not {"val", "valid", "validation"}.isdisjoint(re.split(r"[_.\-]", path.name))


def _read(
    paths: Iterable[Path],
    options: PrepareOptions,
    counts: Counter[str],
    given: list[GivenStatement],
) -> dict[Fact, bool]:
    """Return the facts of files, and whether each is for validation; count what was skipped.

    The statements that the files carry, and those of the files of their paraphrases, are added to
    `given`.
    """
    readers: dict[FactSource, Callable[..., ParsedFacts]] = {
        FactSource.conceptnet: read_conceptnet,
        FactSource.commonsenseqa: read_commonsenseqa,
        FactSource.reference: read_reference,
        FactSource.table: read_table,
    }
    one_object = options.contradictions == Contradictions.skip
    facts: dict[Fact, bool] = {}
    stated: set[tuple[str, str, str]] = set()
    for path in paths:
        parsed = readers[options.fact_source](path, one_object=one_object)
        new = [fact for fact in parsed.facts if statement_words(fact) not in stated]
        repeated = len(parsed.facts) - len(new)
        counts.update({**parsed.counts, **({REPEATED: repeated} if repeated else {})})
        facts |= dict.fromkeys(new, _is_validation(path))
        stated |= set(map(statement_words, new))
        given += parsed.statements
        paraphrases = path.with_name(path.name.replace("_best_format", PARAPHRASES))
        if paraphrases != path and paraphrases.is_file():
            given += read_reference(paraphrases).statements
    return facts
