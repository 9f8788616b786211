"""The table of WordNet's noun synsets and its rows."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HYPERNYM = "hypernym"
"""Relation of a synset to one that it is a kind of."""
INSTANCE = "instance_hypernym"
"""Relation of a named thing to the synset that it is an instance of."""

_HEADER = "synset\tlemmas\tcounts\thypernyms\tinstance_hypernyms"


@dataclass(frozen=True, slots=True)
class Synset:
    """One noun synset: a meaning with the words that name it."""

    name: str
    """First lemma in lower case, `n`, sense number: `building.n.01`."""
    lemmas: tuple[str, ...]
    """Its lemmas in WordNet's order, blanks as underscores."""
    counts: tuple[int, ...]
    """How often each lemma was tagged with this sense [occurrences]."""
    hypernyms: tuple[str, ...]
    """Names of the synsets that it is a kind of."""
    instance_hypernyms: tuple[str, ...]
    """Names of the synsets that it is an instance of."""

    @property
    def words(self) -> str:
        """The surface words: the first lemma with blanks."""
        return self.lemmas[0].replace("_", " ")

    @property
    def frequency(self) -> int:
        """How often the first lemma was tagged with this sense [occurrences]."""
        return self.counts[0]

    @property
    def parents(self) -> list[tuple[str, str]]:
        """The (hypernym, relation) pairs, plain hypernyms first."""
        above = [(name, HYPERNYM) for name in self.hypernyms]
        return above + [(name, INSTANCE) for name in self.instance_hypernyms]


def read_synsets(path: Path) -> dict[str, Synset]:
    """Return the synsets of the facts table.

    Args:
        path: The gzip-compressed table that `data/raw/wordnet/derive.py` writes.

    Returns:
        All synsets by name, in the order of the table.

    Raises:
        FileNotFoundError: If the table is not there.
        ValueError: If a line is not of the table's form, or names a synset that it lacks.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the WordNet facts table is missing")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        header, *lines = file.read().splitlines()
    if header != _HEADER:
        raise ValueError(f"{path}:1: header {header!r} is not {_HEADER!r}")
    synsets = {}
    for number, line in enumerate(lines, start=2):
        synset = _parse(line, f"{path}:{number}")
        synsets[synset.name] = synset
    _check_tails(synsets, path)
    return synsets


def _parse(line: str, place: str) -> Synset:
    """Return the synset of one line."""
    fields = line.split("\t")
    if len(fields) != _HEADER.count("\t") + 1:
        raise ValueError(f"{place}: {len(fields)} fields; allowed are {_HEADER.count(chr(9)) + 1}")
    name, *lists = fields
    lemmas, counts, hypernyms, instances = (tuple(field.split()) for field in lists)
    if not lemmas or len(lemmas) != len(counts):
        raise ValueError(f"{place}: field 'counts' must hold one number per lemma of {name!r}")
    return Synset(name, lemmas, tuple(map(int, counts)), hypernyms, instances)


def _check_tails(synsets: Mapping[str, Synset], path: Path) -> None:
    """Raise where a hypernym is not in the table."""
    for synset in synsets.values():
        for tail, relation in synset.parents:
            if tail not in synsets:
                raise ValueError(f"{path}: {relation} {tail!r} of {synset.name!r} is not in it")
