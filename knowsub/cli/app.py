"""The command `knowsub` and its subcommands: text or JSON output, one-line errors, exit codes.

Exit codes: 0 success, 1 invalid input (a file, a model, a mask), 2 invalid command line. Every
subcommand imports what it needs when it runs, so that `--help` does not load torch, after it has
checked its arguments and files: a mistake is said at once, and all of them together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from knowsub.cli.checks import (
    answer_mistakes,
    combine_mistakes,
    mask_mistakes,
    model_mistakes,
    output_mistakes,
    statements_mistakes,
    task_mistakes,
)

Result = dict[str, Any]
"""The result of a command, as JSON can hold it."""


def run(
    command: Callable[[], Result], lines: Callable[[Result], Sequence[str]], as_json: bool
) -> None:
    """Run a command and print its result as lines or as one JSON object.

    Invalid input (ValueError, OSError) ends with one line on standard error and exit code 1.
    """
    from knowsub.artifacts import json_text

    try:
        result = command()
        shown = json_text(result, "--json", indent=1) if as_json else "\n".join(lines(result))
    except (ValueError, OSError) as error:
        typer.echo(f"knowsub: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(1) from None
    typer.echo(shown)


def refuse(mistakes: Sequence[str]) -> None:
    """End with exit code 1 if there is a mistake, after a line for each of them."""
    for mistake in mistakes:
        typer.echo(f"knowsub: {mistake}", err=True)
    if mistakes:
        raise typer.Exit(1)


def require_pipeline(*packages: str) -> None:
    """End with exit code 1 if a package of the extra `pipeline` is not installed."""
    if any(find_spec(package) is None for package in packages):
        refuse(["this command needs more packages: pip install 'knowsub[pipeline]'"])


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of equal length as lines: the first column aligned left, the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def written_lines(result: Result) -> list[str]:
    """Return the text of the result of `combine` or `remove`."""
    return [
        f"{result['written']}: {result['weights']:,} weights in the subnetwork, "
        f"sparsity {result['sparsity']:.2%}"
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
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite existing output.")]
Without = Annotated[
    Path | None,
    typer.Option(metavar="MASK", help="Also answer with this subnetwork removed."),
]


class Rule(StrEnum):
    """How masks are combined; values are functions of `knowsub.masks.mask`."""

    UNION = "union"
    INTERSECTION = "intersection"
    FLORAL = "floral"
    DIFFERENCE = "difference"


def _epilog(*examples: str) -> dict[str, Any]:
    """Return the keyword that prints examples under a command's help, lines kept as they are."""
    return {"epilog": "\n  ".join(["\b\nExamples:", *examples])}


@app.command(**_epilog("knowsub show data/train/building.n.01-0/mask.safetensors"))
def show(mask: MaskFile, json: AsJson = False) -> None:
    """Show a mask: its model, its size, and its placement."""
    refuse(mask_mistakes(mask))
    from knowsub.cli.masks import describe, described_lines

    run(lambda: describe(mask), described_lines, json)


@app.command(**_epilog("knowsub compare a/mask.safetensors b/mask.safetensors"))
def compare(masks: MaskFiles, json: AsJson = False) -> None:
    """Compare masks: shared weights, and how many independent masks would share."""
    few = [] if len(masks) > 1 else [f"compare needs two masks or more, not {len(masks)}"]
    refuse(few + mask_mistakes(*masks))
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
    union: Annotated[bool, typer.Option("--union", help="Weights in any mask.")] = False,
    intersection: Annotated[
        bool, typer.Option("--intersection", help="Weights in all masks.")
    ] = False,
    floral: Annotated[
        bool, typer.Option("--floral", help="Weights in at least two masks.")
    ] = False,
    difference: Annotated[
        bool, typer.Option("--difference", help="Weights in the first mask alone.")
    ] = False,
    force: Force = False,
    json: AsJson = False,
) -> None:
    """Combine masks of one model into a new one."""
    flags = zip(Rule, (union, intersection, floral, difference), strict=True)
    rules = [rule for rule, is_set in flags if is_set]
    mistakes = combine_mistakes(masks, rules) + mask_mistakes(*masks)
    refuse(mistakes + output_mistakes(out, force))
    from knowsub.cli.masks import combine_masks

    run(lambda: combine_masks(masks, rules[0], out), written_lines, json)


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
    mistakes = model_mistakes(model) + mask_mistakes(mask)
    refuse(mistakes + output_mistakes(out, force, model=True))
    from knowsub.cli.models import remove_mask

    run(lambda: remove_mask(model, mask, out), written_lines, json)


@app.command(
    **_epilog(
        'knowsub predict gpt2 "A ziggurat is a kind of"',
        'knowsub predict data/pretrain/model.json --without building.safetensors "A tavern is a"',
    )
)
def predict(
    model: ModelName,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="Text before the answer.")],
    without: Without = None,
    top: Annotated[int, typer.Option(min=1, max=1000, help="Number of tokens shown.")] = 10,
    json: AsJson = False,
) -> None:
    """Show a model's most likely next tokens, before and after a removal."""
    refuse(model_mistakes(model) + mask_mistakes(without))
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
    answer: Annotated[str, typer.Argument(metavar="ANSWER", help="The answer to score.")],
    without: Without = None,
    json: AsJson = False,
) -> None:
    """Score one answer: NLL per token [nats], perplexity and rank, before and after a removal."""
    refuse(model_mistakes(model) + answer_mistakes(answer) + mask_mistakes(without))
    from knowsub.cli.models import score_lines, scores

    run(lambda: scores(model, prompt, answer, without), score_lines, json)


@app.command(**_epilog("knowsub task data/verbalize/building.n.01.jsonl --out tasks"))
def task(
    statements: Annotated[
        Path, typer.Argument(metavar="STATEMENTS", help="What verbalize wrote of a target.")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to write into.")],
    distractors: Annotated[int, typer.Option(min=1, help="Wrong objects per question.")] = 9,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of distractors.")] = 0,
    force: Force = False,
    json: AsJson = False,
) -> None:
    """Write a target's facts as a multiple-choice task of lm-evaluation-harness."""
    refuse(statements_mistakes(statements) + task_mistakes(statements, out, force))
    from knowsub.cli.harness import task_lines, write_task

    run(lambda: write_task(statements, out, distractors, seed), task_lines, json)


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
    require_pipeline("ruamel", "hydra")
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


@app.command(
    **_epilog(
        "knowsub records counterfact.json data/raw/mine --name languages --relation P103",
        "knowsub records counterfact.json data/raw/mine --name control --without P103",
    )
)
def records(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CounterFact, zsRE or TOFU.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="For prepare.source_folder.")],
    name: Annotated[str, typer.Option(help="The target, or control.")],
    relation: Annotated[list[str] | None, typer.Option(help="Relation taken; all.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="Relation left out.")] = None,
    json: AsJson = False,
) -> None:
    """Write records of CounterFact, zsRE or TOFU as fact files with the prompts they carry."""
    from knowsub import records as bridge
    from knowsub.kg.folders import check_name

    def command() -> Result:
        target = name if name == "control" else check_name(name)
        found = bridge.read_records(file)
        paths = bridge.write_records(found, folder, target, relation or (), without or ())
        return {"written": [str(path) for path in paths]}

    run(command, lambda result: result["written"], json)


@app.command(**_epilog("knowsub ui", "knowsub ui --port 5001 --no-browser"))
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
    browser: Annotated[bool, typer.Option(help="Open the page.")] = True,
) -> None:
    """Serve the runs in MLflow, and open the saved view: one row per experiment."""
    require_pipeline("mlflow")
    from knowsub.cli.view import serve

    try:
        status = serve(port, browser)
    except (ValueError, OSError) as error:
        refuse([" ".join(str(error).split())])
    raise typer.Exit(status)
