"""The command's tree, and how a command answers: text or JSON, one-line errors, exit codes.

0: done. 1: something given is wrong (a file, a model, a mask). 2: the command line is wrong.

Every command imports what it needs when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

Result = dict[str, Any]
"""What a command found, as JSON can hold it."""


def run(
    command: Callable[[], Result], lines: Callable[[Result], Sequence[str]], as_json: bool
) -> None:
    """Run a command and print its result.

    Args:
        command: Computes the result.
        lines: Result -> lines of text.
        as_json: Whether to print one JSON object instead.

    Raises:
        typer.Exit: With code 1 and one line on standard error, if something given is wrong.
    """
    try:
        result = command()
    except (ValueError, OSError) as error:
        typer.echo(f"knowsub: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps(result, indent=1, ensure_ascii=False))
    else:
        typer.echo("\n".join(lines(result)))


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines in columns: the first aligned left, the others right.

    Args:
        rows: Rows of equal length, at least one; the first is the heading.

    Returns:
        One line per row.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


app = typer.Typer(
    help="Find, compare, combine and remove the subnetworks holding a language model's knowledge.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

MaskFile = Annotated[Path, typer.Argument(metavar="MASK", help="A mask.safetensors file.")]
MaskFiles = Annotated[list[Path], typer.Argument(metavar="MASK...", help="Two or more masks.")]
ModelName = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A Hugging Face folder, a model.json, or a hub id."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write one JSON object to standard output.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there already.")]
Without = Annotated[
    Path | None,
    typer.Option(metavar="MASK", help="Also answer with this subnetwork removed, side by side."),
]


class Rule(StrEnum):
    """How masks are combined."""

    UNION = "union"
    INTERSECTION = "intersection"
    FLORAL = "floral"
    DIFFERENCE = "difference"


def _epilog(*examples: str) -> dict[str, Any]:
    """Return the keyword that prints examples under a command's help, lines kept as they are."""
    return {"epilog": "\n  ".join(["\b\nExamples:", *examples])}


@app.command(**_epilog("knowsub show data/train/building.n.01-0/mask.safetensors"))
def show(mask: MaskFile, json: AsJson = False) -> None:
    """Tell what a mask is: its model, size, and where it lies."""
    from knowsub.cli.masks import describe, described_lines

    run(lambda: describe(mask), described_lines, json)


@app.command(**_epilog("knowsub compare a/mask.safetensors b/mask.safetensors"))
def compare(masks: MaskFiles, json: AsJson = False) -> None:
    """Tell how much masks have in common, over what chance would give."""
    from knowsub.cli.masks import compare_masks, pair_lines

    run(lambda: compare_masks(masks), pair_lines, json)


@app.command(
    **_epilog(
        "knowsub combine --intersection a.safetensors b.safetensors --out core.safetensors",
        "knowsub combine --difference a.safetensors b.safetensors --out only-a.safetensors",
    )
)
def combine(
    masks: MaskFiles,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Mask file to write.")],
    union: Annotated[bool, typer.Option("--union", help="In any of the masks.")] = False,
    intersection: Annotated[bool, typer.Option("--intersection", help="In all of them.")] = False,
    floral: Annotated[bool, typer.Option("--floral", help="In at least two of them.")] = False,
    difference: Annotated[
        bool, typer.Option("--difference", help="In the first and none of the others.")
    ] = False,
    force: Force = False,
    json: AsJson = False,
) -> None:
    """Combine masks of one model into a new one."""
    from knowsub.cli.masks import combine_masks, written_lines

    asked = dict(zip(Rule, (union, intersection, floral, difference), strict=True))
    chosen = [rule for rule, wanted in asked.items() if wanted]
    run(lambda: combine_masks(masks, chosen, out, force), written_lines, json)


@app.command(
    **_epilog("knowsub remove data/pretrain/model.json building.safetensors --out without-building")
)
def remove(
    model: ModelName,
    mask: MaskFile,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to write.")],
    force: Force = False,
    json: AsJson = False,
) -> None:
    """Remove a subnetwork and write the remaining model as an ordinary Hugging Face folder."""
    from knowsub.cli.masks import written_lines
    from knowsub.cli.models import remove_mask

    run(lambda: remove_mask(model, mask, out, force), written_lines, json)


@app.command(
    **_epilog(
        'knowsub probe gpt2 "A ziggurat is a kind of"',
        'knowsub probe data/pretrain/model.json --without building.safetensors "A ziggurat is a"',
    )
)
def probe(
    model: ModelName,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="Text before the answer.")],
    without: Without = None,
    top: Annotated[int, typer.Option(min=1, max=1000, help="Answers shown [tokens].")] = 10,
    json: AsJson = False,
) -> None:
    """Show a model's most likely next tokens, before and after a removal."""
    from knowsub.cli.models import prediction_lines, predictions

    run(lambda: predictions(model, prompt, without, top), prediction_lines, json)


@app.command(
    **_epilog(
        'knowsub score gpt2 "A ziggurat is a kind of" " temple"',
        'knowsub score gpt2 --without building.safetensors "A ziggurat is a kind of" " temple"',
    )
)
def score(
    model: ModelName,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="Text before the answer.")],
    tail: Annotated[str, typer.Argument(metavar="ANSWER", help="The answer, with its space.")],
    without: Without = None,
    json: AsJson = False,
) -> None:
    """Score one answer: NLL per token [nats], perplexity and rank, before and after a removal."""
    from knowsub.cli.models import score_lines, scores

    run(lambda: scores(model, prompt, tail, without), score_lines, json)


@app.command(
    **_epilog(
        "knowsub preset --list",
        "knowsub preset paper-gpt2 ablation-no-sparsity",
        "knowsub preset paper-gpt2 --write",
        "knowsub preset paper-gpt2 --overrides | xargs dvc exp run --temp",
    )
)
def preset(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Presets, later over earlier.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the presets.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Write params.yaml.")] = False,
    overrides: Annotated[
        bool, typer.Option("--overrides", help="Print -S key=value for `dvc exp run`.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Write over edits that are not committed.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Show what presets would change in params.yaml, or write it."""
    from knowsub.cli import presets

    if listed + write + overrides > 1:
        raise typer.BadParameter("give one of --list, --write and --overrides")
    given = names or []
    if listed:
        run(presets.list_presets, presets.list_lines, json)
    elif overrides:
        run(lambda: presets.override_presets(given), presets.override_lines, json)
    else:
        run(lambda: presets.apply_presets(given, write, force), presets.applied_lines, json)
