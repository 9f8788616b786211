"""WordNet's nouns: the table of synsets, and the hypernym facts around one of them."""

from __future__ import annotations

import difflib
import gzip
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from knowsub.kg.facts import Fact
from knowsub.kg.options import NOUNS

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
        hypernyms = [(name, HYPERNYM) for name in self.hypernyms]
        return hypernyms + [(name, INSTANCE) for name in self.instance_hypernyms]


@dataclass(frozen=True)
class WordNet:
    """All noun synsets by name, and the facts between them.

    Instances (`Paris` is an instance of `national capital`) count as facts only where asked for.
    """

    synsets: Mapping[str, Synset]
    """Synsets by name, in the order of the table."""

    @cached_property
    def children(self) -> Mapping[str, tuple[tuple[str, str], ...]]:
        """For each synset its direct (hyponym, relation) pairs, in the order of the table."""
        children: dict[str, list[tuple[str, str]]] = {name: [] for name in self.synsets}
        for synset in self.synsets.values():
            for parent, relation in synset.parents:
                children[parent].append((synset.name, relation))
        return {name: tuple(pairs) for name, pairs in children.items()}

    def fact(self, subject: str, relation: str, parent: str) -> Fact:
        """Return the fact between two synsets with their words filled in."""
        words = [self.synsets[name].words for name in (subject, parent)]
        return Fact(subject, relation, parent, subject_words=words[0], object_words=words[1])

    def facts(self, *, instances: bool = False) -> Iterator[Fact]:
        """Yield every fact, in the order of the table."""
        for synset in self.synsets.values():
            for parent, relation in synset.parents:
                if instances or relation == HYPERNYM:
                    yield self.fact(synset.name, relation, parent)

    def synset(self, name: str) -> Synset:
        """Return a synset by its name; a ValueError about an unknown one names close ones."""
        if name in self.synsets:
            return self.synsets[name]
        lemma = name.split(".")[0].lower().replace(" ", "_")
        senses = [f"{lemma}.n.{number:02d}" for number in range(1, 100)]
        close = [sense for sense in senses if sense in self.synsets][:5]
        close = close or difflib.get_close_matches(name, self.synsets, n=5, cutoff=0.7)
        hint = f"close to it: {', '.join(close)}" if close else "nothing is close to it"
        raise ValueError(f"{name!r} is not a noun synset of WordNet 3.0; {hint}")

    def neighborhood(self, name: str, levels: int, *, instances: bool = False) -> dict[Fact, int]:
        """Return the facts around a synset, each with its distance.

        Walks from the synset up its hypernyms and, separately, down its hyponyms; siblings of its
        ancestors are not visited.

        Args:
            name: The synset in the middle.
            levels: How many hypernym steps up and down, at least 1 [steps].
            instances: Whether named things count.

        Returns:
            The facts by distance, then in the walk's order; the distance is the number of steps
            between the synset and the nearer end of the fact, 0 for facts about it [steps].

        Raises:
            ValueError: If the synset is unknown or `levels` is below 1.

        Source:
            METHOD: "triples found by walking about three levels around the named synset".
        """
        if levels < 1:
            raise ValueError(f"levels: value {levels} is not allowed; at least 1")
        self.synset(name)
        distances: dict[Fact, int] = {}
        above, below, seen = [name], [name], {name}
        for distance in range(levels):
            upward = [(low, rel, high) for low in above for high, rel in self.synsets[low].parents]
            downward = [(low, rel, high) for high in below for low, rel in self.children[high]]
            if not instances:
                upward = [link for link in upward if link[1] == HYPERNYM]
                downward = [link for link in downward if link[1] == HYPERNYM]
            above = list(dict.fromkeys(high for _, _, high in upward if high not in seen))
            seen.update(above)
            below = list(dict.fromkeys(low for low, _, _ in downward if low not in seen))
            seen.update(below)
            for link in [*upward, *downward]:
                distances.setdefault(self.fact(*link), distance)
        return distances


@cache
def load(path: Path = NOUNS) -> WordNet:
    """Return WordNet's nouns.

    Args:
        path: The gzip-compressed table that `data/raw/wordnet/derive.py` writes.

    Returns:
        All synsets, in the order of the table.

    Raises:
        FileNotFoundError: If the table is not there.
        ValueError: If a line is not of the table's form, or names a synset that it lacks.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the table of WordNet's synsets is missing")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        header, *lines = file.read().splitlines()
    if header != _HEADER:
        raise ValueError(f"{path}:1: header {header!r} is not {_HEADER!r}")
    synsets = {}
    for number, line in enumerate(lines, start=2):
        synset = _synset(line, f"{path}:{number}")
        synsets[synset.name] = synset
    for synset in synsets.values():
        for parent, relation in synset.parents:
            if parent not in synsets:
                raise ValueError(f"{path}: {relation} {parent!r} of {synset.name!r} is not in it")
    return WordNet(synsets)


def _synset(line: str, place: str) -> Synset:
    """Return the synset of one line."""
    name, *lists = fields = line.split("\t")
    if len(fields) != (columns := _HEADER.count("\t") + 1):
        raise ValueError(f"{place}: {len(fields)} fields; allowed are {columns}")
    lemmas, counts, hypernyms, instances = (tuple(field.split()) for field in lists)
    if not lemmas or len(lemmas) != len(counts):
        raise ValueError(f"{place}: field 'counts' must hold one number per lemma of {name!r}")
    return Synset(name, lemmas, tuple(map(int, counts)), hypernyms, instances)
