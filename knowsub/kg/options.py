"""Options of the stages `prepare` and `verbalize`."""

from dataclasses import dataclass
from enum import StrEnum


class FactSource(StrEnum):
    """Where facts come from. Member names equal values, as the configuration matches names."""

    wordnet = "wordnet"
    conceptnet = "conceptnet"
    commonsenseqa = "commonsenseqa"
    reference = "reference"
    table = "table"


class OverlapPolicy(StrEnum):
    """What to do about facts that should not be there."""

    refuse = "refuse"
    filter = "filter"


class Contradictions(StrEnum):
    """What to do about a head and relation with a second tail."""

    keep = "keep"
    skip = "skip"


class RoleAssignment(StrEnum):
    """How statements get their roles."""

    families = "families"
    best = "best"


@dataclass
class PrepareOptions:
    """Options of `prepare`: which facts and which text."""

    fact_source: FactSource
    """Kind of source of the facts."""
    source_folder: str
    """Folder with one file per target and control files; empty for WordNet [path]."""
    extra_targets: list[str]
    """Targets beside the ones asked for whose facts no control or near fact may touch [names]."""
    hypernym_levels: int
    """Hypernym levels walked up and down from a target synset [steps]."""
    target_facts: int
    """Facts per target KG at most [facts]."""
    max_object_share: float
    """Share of a target KG that one tail takes at most, where there are others [fraction]."""
    unseen_entities: int
    """Nouns that no fact speaks of, for `unseen_facts` to be found among."""
    unseen_facts: int
    """Per target, untold heads that the model answers with the target's tails, kept as near."""
    neighborhood_facts: int
    """Facts per target that share a tail or head word with it, at most [facts]."""
    control_facts: int
    """Control facts in all [facts]."""
    facts_per_object: int
    """WordNet control facts per tail, for distractors and other heads of the same tail [facts]."""
    max_subject_words: int
    """Words in a WordNet head at most [words]."""
    max_object_words: int
    """Words in a WordNet tail at most [words]."""
    validation_share: float
    """Share of the control facts for choosing checkpoints [fraction]."""
    heldout_share: float
    """Share of the control facts used nowhere but in the report [fraction]."""
    overlap: OverlapPolicy
    """Whether control facts that touch a target stop the stage or are left out and counted."""
    contradictions: Contradictions
    """Whether a second tail of a head and relation in a file stays; WordNet heads have one."""
    text: str
    """`embedded`, a text file or folder, or the hub id of a data set."""
    text_validation_share: float
    """Share of the text for choosing checkpoints [fraction]."""
    text_test_share: float
    """Share of the text used nowhere but in the report [fraction]."""
    other_text: str
    """A corpus used nowhere in training, named as `text` is; `embedded-other` by default."""
    seed: int
    """Of sampling and splitting."""

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ValueError: If a value is not allowed; the message names the key.
        """
        _between(self, hypernym_levels=(1, 6), max_subject_words=(1, 9), max_object_words=(1, 9))
        _between(self, target_facts=(2, 10_000), neighborhood_facts=(0, 1_000))
        _between(self, unseen_entities=(0, 1_000_000), unseen_facts=(0, 100_000))
        _between(self, control_facts=(10, 1_000_000), facts_per_object=(2, 1_000))
        _between(self, seed=(0, 2**32 - 1), max_object_share=(0.01, 1.0))
        _between(self, validation_share=(0.01, 0.8), heldout_share=(0.01, 0.8))
        _between(self, text_validation_share=(0.01, 0.8), text_test_share=(0.01, 0.8))
        for keys in (("validation_share", "heldout_share"), _TEXT_SHARES):
            total = sum(getattr(self, key) for key in keys)
            _refuse(total > 0.9, " + ".join(keys), total, "at most 0.9 together")
        _refuse(
            len(set(self.extra_targets)) < len(self.extra_targets),
            "extra_targets",
            self.extra_targets,
            "no name twice",
        )
        _refuse(not self.text, "text", self.text, "embedded, a path or a hub id")
        _refuse(not self.other_text, "other_text", self.other_text, "embedded-other or a path")
        self._check_source()

    def _check_source(self) -> None:
        """Check that a source is given exactly where one is read."""
        if self.fact_source == FactSource.wordnet:
            allowed = "empty for fact_source: wordnet, whose facts are in data/raw"
            _refuse(bool(self.source_folder), "source_folder", self.source_folder, allowed)
        else:
            allowed = f"the folder of the {self.fact_source} files"
            _refuse(not self.source_folder, "source_folder", self.source_folder, allowed)


@dataclass
class VerbalizeOptions:
    """Options of `verbalize`: how facts become statements."""

    templates: str
    """File of the templates per relation [path]."""
    role_assignment: RoleAssignment
    """`families`: roles by family; `best`: each fact's best statement trains, losers are unseen."""
    train_families: list[str]
    """Template families for mask training [names]."""
    validation_families: list[str]
    """Template families for choosing checkpoints [names]."""
    test_families: list[str]
    """Template families that no mask sees, reported as paraphrases [names]."""
    article: bool
    """Whether statements whose head has an article are tried (`A ziggurat`)."""
    bare: bool
    """Whether statements whose head has none are tried (`Ziggurat`)."""
    leading_space: bool
    """Whether each statement is also tried with a space before it."""

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ValueError: If a value is not allowed; the message names the key.
        """
        _refuse(not self.templates, "templates", self.templates, "the path of a YAML file")
        _refuse(not (self.article or self.bare), "article", False, "true where bare is false")
        if self.role_assignment == RoleAssignment.families:
            for key in ("train_families", "validation_families", "test_families"):
                _refuse(not getattr(self, key), key, [], "at least one family")
        named = [*self.train_families, *self.validation_families, *self.test_families]
        twice = sorted({name for name in named if named.count(name) > 1})
        _refuse(bool(twice), "families", twice, "each family in one role, once")


_TEXT_SHARES = ("text_validation_share", "text_test_share")


def _between(options: object, **bounds: tuple[int | float, int | float]) -> None:
    """Raise where an option lies outside its bounds, which are allowed themselves."""
    for key, (low, high) in bounds.items():
        value = getattr(options, key)
        _refuse(not low <= value <= high, key, value, f"{low} to {high}")


def _refuse(wrong: bool, key: str, value: object, allowed: str) -> None:
    """Raise with the key, the value and what is allowed where something is wrong."""
    if wrong:
        raise ValueError(f"{key}: value {value!r} is not allowed; allowed: {allowed}")
