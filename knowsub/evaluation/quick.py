"""The three figures by which mask training chooses a checkpoint, on validation data alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from knowsub.evaluation.bench import View, look
from knowsub.evaluation.items import Items, Reader
from knowsub.evaluation.perplexity import ppl_ratio
from knowsub.kg.triple import Role, Split, Statement
from knowsub.lm.encode import Batch


@dataclass(frozen=True)
class Validation:
    """Held-out prompts, facts and text, none of which are trained on or reported."""

    sets: dict[str, Items]
    """`target`: target facts in validation families; `control`: validation facts."""
    texts: dict[str, Batch]
    """`text`: validation blocks."""
    original: View
    """What the original model says about them."""


def validation_set(
    reader: Reader, upper: PreTrainedModel, statements: Sequence[Statement], text: Batch
) -> Validation:
    """Return the validation data, cached; the original weights must be in place.

    Args:
        reader: The original model and where it is cut.
        upper: Its upper blocks.
        statements: All statements of the target's knowledge graph.
        text: Validation text blocks.

    Returns:
        Target facts in validation families and control validation facts in training families.

    Raises:
        ValueError: If either set is empty.
    """
    wanted = {
        "target": (Split.TARGET, Role.VALIDATION),
        "control": (Split.CONTROL_VALIDATION, Role.TRAIN),
    }
    sets = {}
    for name, (split, role) in wanted.items():
        chosen = [one for one in statements if one.split == split and one.role == role]
        if not chosen:
            raise ValueError(f"no statement of split {split} in a {role} family to validate on")
        sets[name] = reader.items(chosen)
    texts = {"text": reader.cached(text)}
    return Validation(sets, texts, look(upper, sets, texts))


def quick_figures(upper: PreTrainedModel, validation: Validation) -> dict[str, float]:
    """Return the validation figures of the model as it is now.

    Args:
        upper: The upper blocks.
        validation: The validation data.

    Returns:
        `target_nll`, token-weighted mean NLL of the target's tails [nats per token];
        `control_ratio` and `text_ratio`, PPL over the original model's.
    """
    now, original = look(upper, validation.sets, validation.texts), validation.original
    target = now.sets["target"]
    return {
        "target_nll": float(target.nll.double().sum() / target.tokens.sum()),
        "control_ratio": ppl_ratio(now.sets["control"], original.sets["control"]),
        "text_ratio": ppl_ratio(now.texts["text"], original.texts["text"]),
    }
