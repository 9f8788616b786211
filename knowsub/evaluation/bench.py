"""The test bench of one target KG: every set of items cached, and the original model's scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from knowsub.anatomy import Site
from knowsub.evaluation.items import BUCKET, Items, Reader, scored
from knowsub.kg.triple import Role, Split, Statement
from knowsub.lm.encode import Batch, encode_text
from knowsub.lm.score import Scores, score
from knowsub.lm.trunk import upper_blocks
from knowsub.masks.mask import Mask
from knowsub.masks.removal import removed

SETS: dict[str, tuple[Split, Role]] = {
    "target": (Split.TARGET, Role.TRAIN),
    "validation": (Split.TARGET, Role.VALIDATION),
    "paraphrase": (Split.TARGET, Role.TEST),
    "control": (Split.CONTROL_TRAIN, Role.TRAIN),
    "heldout": (Split.CONTROL_HELDOUT, Role.TRAIN),
    "near": (Split.NEAR_HELDOUT, Role.TRAIN),
}
"""Name of each set of statements -> the facts and the template families in it."""

TARGET_SETS = ("target", "validation", "paraphrase")
"""The sets of prompts for the target facts."""


@dataclass(frozen=True)
class View:
    """What one state of the model (original, remaining, ...) says about the sets it was shown."""

    sets: Mapping[str, Scores]
    """Scores per statement of each set."""
    texts: Mapping[str, Scores]
    """Scores per block of each text."""


@dataclass(frozen=True)
class Bench:
    """All that an evaluation of masks of one model on one target KG needs."""

    reader: Reader
    """The original model, whole, with its tokenizer."""
    upper: PreTrainedModel
    """Its masked blocks and those above; shares their weights."""
    sites: tuple[Site, ...]
    """The maskable matrices."""
    statements: tuple[Statement, ...]
    """All statements of the target's knowledge graph."""
    sets: Mapping[str, Items]
    """Name -> items; sets without statements are left out."""
    texts: Mapping[str, Batch]
    """Name -> text blocks."""
    original: View
    """What the original model says about all of them."""

    def removed(self, mask: Mask) -> AbstractContextManager[None]:
        """Return the block within which the model computes as the remaining model.

        Args:
            mask: The critical subnetwork.

        Returns:
            A context manager; the original weights are back after it.
        """
        return removed(self.reader.model, self.sites, mask)

    def look(self, sets: Iterable[str] | None = None, texts: Iterable[str] | None = None) -> View:
        """Return what the model, as it is now, says.

        Args:
            sets: Names of sets; those without statements are passed over. None means all.
            texts: Names of texts. None means all.

        Returns:
            The scores.
        """
        return look(self.upper, self.sets, self.texts, sets, texts)


def open_bench(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sites: Sequence[Site],
    statements: Sequence[Statement],
    texts: Mapping[str, Batch],
    control_prompts: int = 0,
) -> Bench:
    """Return the bench of one target KG.

    Args:
        model: The original model.
        tokenizer: Its tokenizer.
        sites: The maskable matrices.
        statements: Every verbalisation of every fact of the target's knowledge graph.
        texts: Name -> text blocks as `text_blocks` returns them.
        control_prompts: Prompts per fact in every set but the target's, lowest NLL under the
            original model first; 0 = all.

    Returns:
        The bench, everything cached under the original weights.

    Raises:
        ValueError: If there is no target statement of a training family, or one cannot be encoded.
    """
    first = min(site.block for site in sites)
    reader, upper = Reader(model, tokenizer, first), upper_blocks(model, first)
    sets: dict[str, Items] = {}
    for name, (split, role) in SETS.items():
        chosen = [one for one in statements if one.split == split and one.role == role]
        if name not in TARGET_SETS and control_prompts:
            chosen = best_prompts(chosen, control_prompts)
        if chosen:
            sets[name] = reader.items(chosen)
    if "target" not in sets:
        raise ValueError("no statement states a target fact in a training family")
    cached = {name: reader.cached(batch) for name, batch in texts.items()}
    original = look(upper, sets, cached)
    return Bench(reader, upper, tuple(sites), tuple(statements), sets, cached, original)


def look(
    upper: PreTrainedModel,
    sets: Mapping[str, Items],
    texts: Mapping[str, Batch],
    some_sets: Iterable[str] | None = None,
    some_texts: Iterable[str] | None = None,
) -> View:
    """Return what the upper blocks, as they are now, say about items and texts.

    Args:
        upper: The upper blocks.
        sets: Name -> items.
        texts: Name -> text blocks with trunk states.
        some_sets: Names wanted, None for all.
        some_texts: Names wanted, None for all.

    Returns:
        The scores.
    """
    wanted_sets = sets if some_sets is None else [name for name in some_sets if name in sets]
    wanted_texts = texts if some_texts is None else [name for name in some_texts if name in texts]
    return View(
        sets={name: scored(upper, sets[name]) for name in wanted_sets},
        texts={name: score(upper, texts[name], rows=BUCKET // 4) for name in wanted_texts},
    )


def text_blocks(
    tokenizer: PreTrainedTokenizerBase, text: str, block_tokens: int, most: int = 0
) -> Batch:
    """Return the first blocks of a running text.

    Args:
        tokenizer: The model's tokenizer.
        text: The text.
        block_tokens: Length of a block [tokens].
        most: Blocks at most; 0 = all.

    Returns:
        The blocks.

    Raises:
        ValueError: If the text is shorter than one block.
    """
    blocks = encode_text(tokenizer, text, block_tokens)
    return blocks[:most] if most else blocks


def best_prompts(statements: Sequence[Statement], most: int) -> list[Statement]:
    """Return the statements of lowest NLL of each fact, in their original order.

    Args:
        statements: Statements; those without an NLL come last, equal ones in their order.
        most: Statements per fact at most.

    Returns:
        The chosen ones.
    """
    taken: dict[str, int] = {}
    chosen = set()
    ordered = sorted(
        range(len(statements)),
        key=lambda i: float("inf") if (nll := statements[i].nll) is None else nll,
    )
    for index in ordered:
        key = statements[index].fact.key
        if taken.setdefault(key, 0) < most:
            taken[key] += 1
            chosen.add(index)
    return [statement for index, statement in enumerate(statements) if index in chosen]
