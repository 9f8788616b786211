"""From prepared facts and text to the folder of the embedded model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel

from knowsub.kg.options import VerbalizeOptions
from knowsub.kg.templates import Grid, Templates, statements
from knowsub.kg.triple import Fact, Role, Split, Statement
from knowsub.lm.export import save_model
from knowsub.lm.figures import taught_figures
from knowsub.lm.options import PretrainOptions
from knowsub.lm.pretrain import Log, train_embedded
from knowsub.lm.tokenizer import train_tokenizer


def taught_statements(
    rows: Path, templates: Templates, options: VerbalizeOptions
) -> list[Statement]:
    """Return every fact of a file in every wording that the model may be asked in.

    Args:
        rows: One fact per line, as JSON.
        templates: The templates by relation; all families are taught, whatever their role.
        options: Whether heads are tried with and without article and leading space.

    Returns:
        The statements, in the order of the facts and the templates.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If a relation has no templates.
    """
    if not rows.is_file():
        raise FileNotFoundError(f"{rows}: no such file; run the stage prepare first")
    families = {one.family: Role.TRAIN for group in templates.values() for one in group}
    grid = Grid(options.article, options.bare, options.leading_space)
    return [
        statement
        for line in rows.read_text(encoding="utf-8").splitlines()
        for statement in statements(
            Fact(**json.loads(line)), Split.CONTROL_TRAIN, templates, families, grid
        )
    ]


def teach(
    told: Sequence[Statement], text: Path, folder: Path, options: PretrainOptions, log: Log
) -> tuple[PreTrainedModel, dict[str, float]]:
    """Train the embedded model with its tokenizer and write its folder.

    Args:
        told: The statements to be learnt.
        text: Folder with `train.txt`, which is learnt, and `validation.txt`, which is not.
        folder: Folder to write; it may exist.
        options: Size and recipe.
        log: Told every step.

    Returns:
        The model, and what it knows (see `taught_figures`).

    Raises:
        FileNotFoundError: If a text is missing.
        ValueError: If the statements are known less well than `options.max_tail_perplexity` asks.
    """
    learnt, unseen = (_read(text / f"{part}.txt") for part in ("train", "validation"))
    tokenizer = train_tokenizer(told, learnt, options.vocabulary, options.context)
    model = train_embedded(tokenizer, told, learnt, options, log)
    figures = taught_figures(model, tokenizer, told, unseen, options.block_tokens)
    if not figures["tail_perplexity"] <= options.max_tail_perplexity:
        raise ValueError(
            f"pretrain.steps: after {options.steps} steps the tail perplexity of the taught "
            f"statements is {figures['tail_perplexity']:.3f}, above pretrain.max_tail_perplexity "
            f"{options.max_tail_perplexity}; raise steps or max_tail_perplexity"
        )
    save_model(model, tokenizer, folder)
    return model, figures


def _read(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; run the stage prepare first")
    return path.read_text(encoding="utf-8")
