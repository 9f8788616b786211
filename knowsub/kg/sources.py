"""Where `prepare` takes its facts from: WordNet, or a folder of files, one per target, and control.

Targets, neighborhood and control are chosen for all targets together, whichever are asked for.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path

from knowsub.kg import wordnet
from knowsub.kg.build import (
    FactSplits,
    build_kg,
    check_targets,
    draw_facts,
    facts_sharing_words,
    hash_order,
    hash_rank,
    neighborhood_facts,
    separate,
)
from knowsub.kg.facts import Fact, leaks_answer, statement_words, word_list, write_facts, write_kg
from knowsub.kg.options import Contradictions, FactSource, PrepareOptions
from knowsub.kg.readers import (
    ParsedFacts,
    read_commonsenseqa,
    read_conceptnet,
    read_reference,
    read_table,
)
from knowsub.kg.unseen import unseen_entities
from knowsub.kg.wordnet import WordNet
from knowsub.kg.words import comparable

CONTROL = "control"
"""Files whose names begin so hold the control facts."""

Counts = Mapping[str, Counter[str]]
"""By target and for `control`: facts kept, and facts left out by reason [facts]."""

ELSEWHERE = "belongs to another target, which is closer"
AMBIGUOUS = "another sense or hypernym of the same subject words"
BEYOND = "beyond the number of facts asked for"


def collect_facts(targets: Sequence[str], options: PrepareOptions) -> FactSplits:
    """Return the facts of all targets and the control facts apart from them.

    Args:
        targets: Names of the targets; `options.extra_targets` are added to them.
        options: Where the facts are, sizes and limits.

    Returns:
        The facts.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a target is unknown or too small, a file is wrong, there are too few control
            facts, or target and control overlap and that is refused.
    """
    if options.fact_source == FactSource.wordnet:
        return wordnet_facts(wordnet.load(), targets, options)
    return folder_facts(targets, options)


def draw_summary(facts: FactSplits, targets: Sequence[str], options: PrepareOptions) -> list[str]:
    """Return, for each target that is a part of its source, how many facts of how many it has."""
    rule = "the closest" if options.fact_source == FactSource.wordnet else "drawn by hash"
    taken = {
        name: (facts.counts[name]["target"], facts.counts[name].get(BEYOND, 0)) for name in targets
    }
    return [
        f"{name}: {number} of {number + beyond} facts ({rule})"
        for name, (number, beyond) in taken.items()
        if beyond
    ]


def write_fact_splits(
    folder: Path, facts: FactSplits, targets: Sequence[str], options: PrepareOptions
) -> Mapping[str, Counter[str]]:
    """Write all facts, each target's facts with their splits, and the unseen entities.

    Args:
        folder: Where to.
        facts: The facts.
        targets: Names of the targets.
        options: Shares of the splits, number of unseen entities.

    Returns:
        Facts per split of each target.

    Raises:
        ValueError: As in `build_kg`.
    """
    counts = {}
    for target in targets:
        kg = build_kg(facts, target, options.validation_share, options.heldout_share, options.seed)
        write_kg(folder / f"kg/{target}.jsonl", kg)
        counts[target] = Counter(split.value for _, split in kg)
    write_facts(folder / "facts.jsonl", facts.facts)
    nouns = (fact.subject_words for fact in wordnet.load().facts())
    entities = unseen_entities(nouns, facts.facts, options)
    (folder / "unseen.txt").write_text("".join(f"{name}\n" for name in entities), encoding="utf-8")
    return counts


def wordnet_facts(nouns: WordNet, targets: Iterable[str], options: PrepareOptions) -> FactSplits:
    """Return the facts of all targets and control facts; each subject's words name one fact only.

    Raises ValueError if a synset is unknown, a target has fewer than two usable facts, or there are
    too few control facts.
    """
    names = sorted({*targets, *options.extra_targets})
    counts: Counts = {name: Counter() for name in [*names, CONTROL]}
    target_facts = _wordnet_targets(nouns, names, options, counts)
    check_targets(target_facts)
    in_targets = {fact for facts in target_facts.values() for fact in facts}
    pool = [
        fact for fact in nouns.facts() if unusable(fact, options) is None and fact not in in_targets
    ]
    pool.sort(key=lambda fact: _rarity(nouns, fact))
    sharing_words = facts_sharing_words(in_targets, pool)
    by_subject = {comparable(fact.subject_words): fact for fact in in_targets}
    neighborhood = {}
    for name in names:
        free = [
            fact
            for fact in sharing_words
            if by_subject.get(comparable(fact.subject_words), fact) == fact
        ]
        neighborhood[name] = neighborhood_facts(
            target_facts[name], free, options.neighborhood_facts, unique_subjects=True
        )
        by_subject |= {comparable(fact.subject_words): fact for fact in neighborhood[name]}
        counts[name]["neighborhood"] = len(neighborhood[name])
    synsets = {synset for fact in in_targets for synset in (fact.subject, fact.object)}
    overlapping = {fact for fact in pool if {fact.subject, fact.object} & synsets}
    overlapping.update(sharing_words)
    control = _wordnet_control(pool, overlapping, by_subject, options, counts[CONTROL])
    return FactSplits(target_facts, neighborhood, control, counts)


def unusable(fact: Fact, options: PrepareOptions) -> str | None:
    """Return why a fact of WordNet is left out, or None if it is not."""
    if len(word_list(fact.subject_words)) > options.max_subject_words:
        return f"subject has more than {options.max_subject_words} words"
    if len(word_list(fact.object_words)) > options.max_object_words:
        return f"object has more than {options.max_object_words} words"
    return "subject or object leaks the other" if leaks_answer(fact) else None


def _wordnet_targets(
    nouns: WordNet, names: Sequence[str], options: PrepareOptions, counts: Counts
) -> dict[str, tuple[Fact, ...]]:
    """Return each target's facts: one per subject words, the closest first, objects spread."""
    usable = _usable_neighborhoods(nouns, names, options, counts)
    order = [(fact, distance) for facts in usable.values() for fact, distance in facts.items()]
    # Of several facts with the same subject words, the one of the most frequent sense is kept.
    order.sort(key=lambda pair: (_rarity(nouns, pair[0])[0], pair[1], pair[0].key))
    first: dict[str, Fact] = {}
    for fact, _ in order:
        first.setdefault(comparable(fact.subject_words), fact)
    targets = {}
    for name, facts in usable.items():
        unambiguous = [fact for fact in facts if first[comparable(fact.subject_words)] == fact]
        unambiguous.sort(key=lambda fact: (facts[fact], _rarity(nouns, fact)))
        targets[name] = _spread_objects(unambiguous, options)
        beyond = len(unambiguous) - len(targets[name])
        counts[name].update({AMBIGUOUS: len(facts) - len(unambiguous), BEYOND: beyond})
        counts[name]["target"] = len(targets[name])
    return targets


def _usable_neighborhoods(
    nouns: WordNet, names: Sequence[str], options: PrepareOptions, counts: Counts
) -> dict[str, dict[Fact, int]]:
    """Return each target's usable facts with their distances; a shared fact goes to the closest."""
    around = {name: nouns.neighborhood(name, options.hypernym_levels) for name in names}
    owner: dict[Fact, tuple[int, str]] = {}
    for name, facts in around.items():
        for fact, distance in facts.items():
            owner[fact] = min(owner.get(fact, (distance, name)), (distance, name))
    usable: dict[str, dict[Fact, int]] = {name: {} for name in names}
    for name, facts in around.items():
        for fact, distance in facts.items():
            reason = unusable(fact, options) or (ELSEWHERE if owner[fact][1] != name else None)
            if reason is None:
                usable[name][fact] = distance
            else:
                counts[name][reason] += 1
    return usable


def _spread_objects(facts: Sequence[Fact], options: PrepareOptions) -> tuple[Fact, ...]:
    """Return the first facts; those of an object that has its share already come last."""
    limit = max(1, int(options.max_object_share * options.target_facts))
    counts: Counter[str] = Counter()
    within: list[Fact] = []
    beyond: list[Fact] = []
    for fact in facts:
        counts[fact.object_words] += 1
        (within if counts[fact.object_words] <= limit else beyond).append(fact)
    return tuple([*within, *beyond][: options.target_facts])


def _wordnet_control(
    pool: Sequence[Fact],
    overlapping: Container[Fact],
    taken_subjects: Container[str],
    options: PrepareOptions,
    counts: Counter[str],
) -> tuple[Fact, ...]:
    """Return facts that overlap with no target, several per object."""
    first: dict[str, Fact] = {}
    for fact in pool:
        first.setdefault(comparable(fact.subject_words), fact)
    apart = {words: fact for words, fact in first.items() if fact not in overlapping}
    by_object: defaultdict[str, list[Fact]] = defaultdict(list)
    for words, fact in apart.items():
        if words not in taken_subjects:
            by_object[fact.object_words].append(fact)
    size = options.facts_per_object
    objects = [words for words, facts in by_object.items() if len(facts) >= size]
    # The salt is part of the result: another word would draw other control facts.
    objects.sort(key=lambda words: hash_rank(words, options.seed, "tails"))
    control = [fact for words in objects for fact in by_object[words][:size]]
    if len(control) < options.control_facts:
        raise ValueError(
            f"prepare.control_facts: value {options.control_facts} is not allowed; WordNet has "
            f"{len(control)} at {size} per object apart from these targets"
        )
    counts[CONTROL] = options.control_facts
    counts["shares something with a target"] = len(first) - len(apart)
    counts[AMBIGUOUS] = len(pool) - len(first)
    return tuple(control[: options.control_facts])


def _rarity(nouns: WordNet, fact: Fact) -> tuple[int, bytes]:
    """Return a key that sorts facts by the frequency of the subject's sense, equals by hash."""
    return (-nouns.synsets[fact.subject].frequency, hash_rank(fact.key, 0, "common"))


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
    for name in names:
        facts = _read(_target_file(folder, name, options.fact_source), options, counts[name])
        whole[name] = tuple(fact for fact in facts if statement_words(fact) not in taken)
        taken |= set(map(statement_words, facts))
        beyond = max(0, len(whole[name]) - options.target_facts)
        counts[name].update({ELSEWHERE: len(facts) - len(whole[name]), BEYOND: beyond})
        counts[name]["target"] = len(whole[name]) - beyond
    check_targets(whole)
    # Facts beyond a target's size are kept out of control all the same.
    in_targets = [fact for facts in whole.values() for fact in facts]
    separation = separate(in_targets, _read_control(folder, options, counts), options.overlap)
    control = hash_order(separation.kept, options.seed, "control facts")[: options.control_facts]
    beyond = len(separation.kept) - len(control)
    counts[CONTROL].update({**separation.counts, BEYOND: beyond, CONTROL: len(control)})
    stated = {statement_words(fact) for fact in in_targets}
    dropped = (overlap.control for overlap in separation.dropped)
    pool = [fact for fact in dropped if statement_words(fact) not in stated]
    target_facts = {
        name: draw_facts(facts, options.target_facts, options.seed, "target facts")
        for name, facts in whole.items()
    }
    neighborhood = {
        name: neighborhood_facts(facts, pool, options.neighborhood_facts, unique_subjects=False)
        for name, facts in target_facts.items()
    }
    for name, facts in neighborhood.items():
        counts[name]["neighborhood"] = len(facts)
    return FactSplits(target_facts, neighborhood, tuple(control), counts)


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
    FactSource.reference: ("_best_format.json", ".json"),
    FactSource.table: (".tsv", ".jsonl"),
}
"""What follows a target's name in the name of its file."""


def _target_file(folder: Path, name: str, source: FactSource) -> Path:
    paths = [folder / f"{name}{ending}" for ending in _ENDINGS[source]]
    for path in paths:
        if path.is_file():
            return path
    allowed = " or ".join(path.name for path in paths)
    raise FileNotFoundError(
        f"prepare.source_folder: {folder} has no file of target {name!r} (named by "
        f"targets or prepare.extra_targets): {allowed}"
    )


def _read_control(folder: Path, options: PrepareOptions, counts: Counts) -> list[Fact]:
    """Return the facts of all control files, each once."""
    suffixes = {f".{ending.rpartition('.')[2]}" for ending in _ENDINGS[options.fact_source]}
    files = sorted(path for path in folder.glob(f"{CONTROL}*.*") if path.suffix in suffixes)
    if not files:
        allowed = " or ".join(f"{CONTROL}*{suffix}" for suffix in sorted(suffixes))
        raise FileNotFoundError(
            f"prepare.source_folder: {folder} has no control file; allowed: {allowed}"
        )
    facts = (fact for path in files for fact in _read(path, options, counts[CONTROL]))
    return list({statement_words(fact): fact for fact in reversed(list(facts))}.values())[::-1]


def _read(path: Path, options: PrepareOptions, counts: Counter[str]) -> tuple[Fact, ...]:
    """Return the facts of a file and count what was skipped."""
    readers: dict[FactSource, Callable[..., ParsedFacts]] = {
        FactSource.conceptnet: read_conceptnet,
        FactSource.commonsenseqa: read_commonsenseqa,
        FactSource.reference: read_reference,
        FactSource.table: read_table,
    }
    one_object = options.contradictions == Contradictions.skip
    parsed = readers[options.fact_source](path, one_object=one_object)
    counts.update(parsed.counts)
    return parsed.facts
