"""Statements that a source itself carries: read, stored, and chosen from by the paper's rule."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from knowsub.kg.facts import Fact, Role, Statement
from knowsub.kg.rows import json_rows


@dataclass(frozen=True, slots=True)
class GivenStatement:
    """One statement that a source carries."""

    model: str
    """Short name of the model that it was chosen for, such as `gpt2-xl`."""
    statement: Statement
    """The statement; its role is train where it was chosen, test where it is a paraphrase. The
    split stands for nothing: facts get theirs later."""


Given = Mapping[Fact, Sequence[GivenStatement]]
"""The statements that a source carries of each fact."""


def write_given(path: Path, given: Iterable[GivenStatement]) -> None:
    """Write statements with the models that they were chosen for, one per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ({"model": each.model, **asdict(each.statement)} for each in given)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8", newline="\n")


def read_given(path: Path) -> Given:
    """Return the statements that `write_given` wrote, by their facts.

    Args:
        path: The file.

    Returns:
        The statements of each fact, in the order of the lines.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If a line is no such statement; the line is named.
    """
    given: defaultdict[Fact, list[GivenStatement]] = defaultdict(list)
    for place, row in json_rows(path):
        try:
            each = GivenStatement(str(row["model"]), Statement.from_row(row))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{place}: no statement: {error}") from None
        given[each.statement.fact].append(each)
    return dict(given)


def chosen_for(given: Sequence[GivenStatement], model: str) -> list[Statement]:
    """Return the statements to train on: those chosen for a model, or for any if none was for it.

    Args:
        given: The statements of one fact.
        model: Name of the model at hand; of a path or a hub id the last part counts.

    Returns:
        The statements, each text once.
    """
    name = model.rstrip("/").rpartition("/")[2]
    chosen = [each for each in given if each.statement.role is Role.TRAIN]
    own = [each for each in chosen if each.model == name]
    return list({each.statement.text: each.statement for each in own or chosen}.values())


def paraphrases_of(given: Sequence[GivenStatement], best: Statement) -> list[Statement]:
    """Return the statements whose template family is not that of the best one, each text once.

    Source:
        The paper's rule: the paraphrases are the statements of the families that did not win.
    """
    lost = (each.statement for each in given if each.statement.family != best.family)
    return list({statement.text: statement for statement in lost}.values())


def family_of(fact: Fact, prompt: str) -> str:
    """Return the wording of a prompt between subject and object, without articles: `is a kind of`.

    It stands for the name of the template family.
    """
    words = re.sub(rf"^\s*(an?\s+)?{re.escape(fact.subject_words)}\s+", "", prompt, flags=re.I)
    return re.sub(r"\s+an?$", "", words.strip()) or words.strip()
