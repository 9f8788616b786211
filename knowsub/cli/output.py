"""How a command answers: text or JSON, one-line errors, exit codes.

0: done. 1: something given is wrong (a file, a model, a mask). 2: the command line is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

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
