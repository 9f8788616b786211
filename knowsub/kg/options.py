"""Options of the stages `prepare` and `verbalize`."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import Field

from knowsub.ranges import Distinct, Seed, SplitShare, Text, require

NOUNS = Path("data/raw/wordnet/nouns.tsv.gz")
"""Table of WordNet's noun synsets, relative to the root of the repository."""


class FactSource(StrEnum):
    """Where facts come from."""

    wordnet = "wordnet"
    conceptnet = "conceptnet"
    commonsenseqa = "commonsenseqa"
    reference = "reference"
    table = "table"


class OverlapPolicy(StrEnum):
    """What to do about control facts that touch a target."""

    refuse = "refuse"
    filter = "filter"


class Contradictions(StrEnum):
    """What to do about a subject and relation with a second object."""

    keep = "keep"
    skip = "skip"


class RoleAssignment(StrEnum):
    """How statements get their roles (train, validation, test)."""

    families = "families"
    best = "best"


class Paraphrases(StrEnum):
    """Which wordings of the families that lost are kept, where each fact's best statement trains.

    `best`: of each family the likeliest wording; `all`: every wording, as in the paper.
    """

    best = "best"
    all = "all"


Words = Annotated[int, Field(ge=1, le=9)]


@dataclass
class PrepareOptions:
    """Options of `prepare`: which facts and which text."""

    fact_source: FactSource
    """Kind of source of the facts."""
    source_folder: str
    """Folder with one file per target and control files; empty for WordNet [path]."""
    extra_targets: Annotated[list[str], Distinct]
    """Further targets, whose facts no control or neighborhood fact may touch [names]."""
    hypernym_levels: Annotated[int, Field(ge=1, le=6)]
    """Hypernym levels walked up and down from a target synset [steps]."""
    target_facts: Annotated[int, Field(ge=2, le=10_000)]
    """Facts per target KG at most; of a file's, those drawn by hash [facts]."""
    candidate_facts: Annotated[int, Field(ge=0, le=10_000)]
    """Facts per target KG that a pretrained model is asked for, of which it keeps `target_facts`
    known ones; 0 = no more than `target_facts` [facts]."""
    max_object_share: Annotated[float, Field(ge=0.01, le=1)]
    """Share of these that one object takes at most, where there are others [fraction]."""
    neighborhood_facts: Annotated[int, Field(ge=0, le=1_000)]
    """Facts per target that share an object or a subject word with it, at most [facts]."""
    unseen_entities: Annotated[int, Field(ge=0, le=1_000_000)]
    """Nouns that no fact mentions, candidates for `unseen_facts` [nouns]."""
    unseen_facts: Annotated[int, Field(ge=0, le=100_000)]
    """Unseen entities per target that the model answers with the target's objects [facts]."""
    control_facts: Annotated[int, Field(ge=10, le=1_000_000)]
    """Control facts in all [facts]."""
    facts_per_object: Annotated[int, Field(ge=2, le=1_000)]
    """WordNet control facts per object, for distractors and other subjects of it [facts]."""
    max_subject_words: Words
    """Words in a WordNet subject at most [words]."""
    max_object_words: Words
    """Words in a WordNet object at most [words]."""
    validation_share: SplitShare
    """Share of the control facts for choosing checkpoints [fraction]."""
    heldout_share: SplitShare
    """Share of the control and neighborhood facts used only in the report [fraction]."""
    overlap: OverlapPolicy
    """Whether control facts that touch a target stop the stage or are left out and counted."""
    contradictions: Contradictions
    """Whether a second object of a subject and relation stays; WordNet subjects have one."""
    text: Text
    """`embedded`, a text file or folder, or the hub id of a data set."""
    text_validation_share: SplitShare
    """Share of the text for choosing checkpoints [fraction]."""
    text_test_share: SplitShare
    """Share of the text used only in the report [fraction]."""
    other_text: Text
    """A corpus used nowhere in training, named as `text` is; `embedded-other` by default."""
    seed: Seed
    """Of sampling and splitting."""

    @property
    def target_candidates(self) -> int:
        """Facts per target KG at most before a model is asked which it knows [facts]."""
        return max(self.candidate_facts, self.target_facts)

    def __post_init__(self) -> None:
        """Refuse values that do not fit together (ValueError)."""
        for keys in (("validation_share", "heldout_share"), _TEXT_SHARES):
            total = sum(getattr(self, key) for key in keys)
            require(total <= 0.9, " + ".join(keys), total, "at most 0.9 together")
        if self.fact_source is FactSource.wordnet:
            allowed = "empty for fact_source: wordnet, whose facts are in data/raw"
            require(not self.source_folder, "source_folder", self.source_folder, allowed)
        else:
            allowed = f"the folder of the {self.fact_source} files"
            require(bool(self.source_folder), "source_folder", self.source_folder, allowed)


_TEXT_SHARES = ("text_validation_share", "text_test_share")


@dataclass
class VerbalizeOptions:
    """Options of `verbalize`: how facts become statements."""

    templates: Text
    """File of the templates per relation [path]."""
    role_assignment: RoleAssignment
    """`families`: roles by family; `best`: each fact's best statement trains, losers are unseen."""
    paraphrases: Paraphrases
    """Wordings of the losing families that are kept where the best statement trains."""
    max_object_tokens: Annotated[int, Field(ge=0, le=64)]
    """Facts whose object has more tokens are left out; 0 = none is [tokens]."""
    train_families: list[str]
    """Template families for mask training [names]."""
    validation_families: list[str]
    """Template families for choosing checkpoints [names]."""
    test_families: list[str]
    """Template families that no mask sees, reported as paraphrases [names]."""
    article: bool
    """Whether statements whose subject has an article are tried (`A ziggurat`)."""
    bare: bool
    """Whether statements whose subject has none are tried (`Ziggurat`)."""
    leading_space: bool
    """Whether each statement is also tried with a space before it."""
    known_max_nll: Annotated[float, Field(ge=0, le=100)]
    """NLL of the object up to which a fact counts as known; 0 = all count [nats per token]."""
    known_max_rank: Annotated[int, Field(ge=0, le=1_000_000)]
    """0-based vocabulary rank of an object's worst token up to which a fact counts as known."""
    known_distractors: Annotated[int, Field(ge=0, le=1_000)]
    """Other objects of the relation that a known object must be likelier than [objects]."""

    def __post_init__(self) -> None:
        """Refuse values that do not fit together (ValueError)."""
        require(self.article or self.bare, "article", False, "true where bare is false")
        if self.role_assignment is RoleAssignment.families:
            for key in ("train_families", "validation_families", "test_families"):
                require(bool(getattr(self, key)), key, [], "at least one family")
        named = [*self.train_families, *self.validation_families, *self.test_families]
        twice = sorted({name for name in named if named.count(name) > 1})
        require(not twice, "train_families", twice, "each family in one role, once")
