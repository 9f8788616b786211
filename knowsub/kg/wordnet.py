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


@dataclass(frozen=True)
class WordNet:
    """All noun synsets by name."""

    synsets: Mapping[str, Synset]
    """Synsets by name, in the order of the table."""

    @cached_property
    def children(self) -> Mapping[str, tuple[tuple[str, str], ...]]:
        """For each synset its direct (hyponym, relation) pairs, in the order of the table."""
        found: dict[str, list[tuple[str, str]]] = {name: [] for name in self.synsets}
        for synset in self.synsets.values():
            for tail, relation in synset.parents:
                found[tail].append((synset.name, relation))
        return {name: tuple(pairs) for name, pairs in found.items()}

    def fact(self, head: str, relation: str, tail: str) -> Fact:
        """Return the fact between two synsets with their words filled in.

        Args:
            head: Name of the lower synset.
            relation: `hypernym` or `instance_hypernym`.
            tail: Name of the upper synset.

        Returns:
            The fact.

        Raises:
            ValueError: If one of the synsets is not in the table.
        """
        words = [self.synset(name).words for name in (head, tail)]
        return Fact(head, relation, tail, subject_words=words[0], object_words=words[1])

    def facts(self, *, instances: bool = False) -> Iterator[Fact]:
        """Yield every fact of the table.

        Args:
            instances: Whether named things (`Paris` is an instance of `national capital`) count.

        Yields:
            The facts, in the order of the table.
        """
        for synset in self.synsets.values():
            for tail, relation in synset.parents:
                if instances or relation == HYPERNYM:
                    words = self.synsets[tail].words
                    yield Fact(synset.name, relation, tail, synset.words, words)

    def synset(self, name: str) -> Synset:
        """Return a synset by its name.

        Args:
            name: Such as `building.n.01`.

        Returns:
            The synset.

        Raises:
            ValueError: If there is none; the message names the closest ones.
        """
        if name in self.synsets:
            return self.synsets[name]
        lemma = name.split(".")[0].lower().replace(" ", "_")
        senses = [f"{lemma}.n.{number:02d}" for number in range(1, 100)]
        close = [sense for sense in senses if sense in self.synsets][:5]
        close = close or difflib.get_close_matches(name, self.synsets, n=5, cutoff=0.7)
        hint = f"close to it: {', '.join(close)}" if close else "nothing is close to it"
        raise ValueError(f"{name!r} is not a noun synset of WordNet 3.0; {hint}")

    def neighbourhood(self, name: str, levels: int, *, instances: bool = False) -> dict[Fact, int]:
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
        found: dict[Fact, int] = {}
        above, below = [name], [name]
        seen = {name}
        for distance in range(levels):
            above = self._climb(above, distance, seen, instances=instances, found=found)
            below = self._descend(below, distance, seen, instances=instances, found=found)
        return found

    def _climb(
        self,
        names: list[str],
        distance: int,
        seen: set[str],
        *,
        instances: bool,
        found: dict[Fact, int],
    ) -> list[str]:
        """Add the facts from these synsets to their hypernyms; return the new hypernyms."""
        reached = []
        for name in names:
            for tail, relation in self.synsets[name].parents:
                if instances or relation == HYPERNYM:
                    found.setdefault(self.fact(name, relation, tail), distance)
                    reached += [tail] if tail not in seen else []
                    seen.add(tail)
        return reached

    def _descend(
        self,
        names: list[str],
        distance: int,
        seen: set[str],
        *,
        instances: bool,
        found: dict[Fact, int],
    ) -> list[str]:
        """Add the facts from the hyponyms of these synsets to them; return the new hyponyms."""
        reached = []
        for name in names:
            for head, relation in self.children[name]:
                if instances or relation == HYPERNYM:
                    found.setdefault(self.fact(head, relation, name), distance)
                    reached += [head] if head not in seen else []
                    seen.add(head)
        return reached


@cache
def load(path: Path = NOUNS) -> WordNet:
    """Return WordNet's nouns from the facts table.

    Args:
        path: The gzip-compressed table that `data/raw/wordnet/derive.py` writes.

    Returns:
        All synsets.

    Raises:
        FileNotFoundError: If the table is not there.
        ValueError: If a line is not of the table's form, or names a synset that it lacks.
    """
    return WordNet(read_synsets(path))
