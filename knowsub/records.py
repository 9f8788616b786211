"""Records of CounterFact, zsRE and TOFU as files of facts with the prompts that they carry.

What is written is what `prepare.fact_source: reference` reads. With `role_assignment: best` a
fact's own statement trains, the likeliest paraphrase chooses checkpoints, the others stay unseen.
An object may have any number of tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from knowsub.artifacts import atomic_write, json_text
from knowsub.kg.rows import json_rows, listed, text_field

ANSWER = "answer"
"""Relation of a question and its answer; zsRE and TOFU name none."""
TEMPLATES = "templates.yaml"
_FRAMES = ("Question: {} Answer:", "Q: {} A:", "{} Answer:")
"""How a question is put; a record's paraphrases are put in the first way."""
_SAID = ("{}", "Fact: {}", "It is true that: {}")
"""How a sentence is put that its object ends, where a record has too few paraphrases."""
WORDINGS = 3
"""Statements that a fact needs: one to train on, one for validation, one that stays unseen."""


@dataclass(frozen=True)
class Record:
    """One fact and how its record puts it."""

    subject: str
    """The subject's words."""
    relation: str
    """Name of the relation."""
    object: str
    """The true object's words."""
    prompts: tuple[str, ...]
    """Prompts that the object ends: the record's own, then its paraphrases; three or more."""
    wording: str
    """The own prompt with `{bare}` in the subject's place, or the frame of a question."""


def read_records(path: Path) -> list[Record]:
    """Return the records of a file of CounterFact, zsRE (as MEND and ROME have it) or TOFU.

    Of CounterFact the object is `target_true`, of zsRE the first of `answers`, of TOFU `answer`;
    what a record says besides (`target_new`, `alt`, `perturbed_answer`, neighborhood, `loc`) is not
    read. A question's subject is TOFU's author where a name stands in question and answer, else the
    question itself.

    Args:
        path: JSON Lines, or one JSON array.

    Returns:
        The records, in the order of the file.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it is no such file, or a field is missing or none; file, line and field are
            named, those of all records together.
    """
    records, mistakes = [], []
    for place, row in json_rows(path):
        try:
            records.append(_reader(row, place)(row, place))
        except ValueError as error:
            mistakes.append(str(error))
    if mistakes:
        raise ValueError(listed(mistakes))
    return records


def _reader(row: Mapping[str, Any], place: str) -> Callable[[Mapping[str, Any], str], Record]:
    """Return what reads a row, which its fields show."""
    for name, reader in (("requested_rewrite", _counterfact), ("src", _zsre), ("question", _tofu)):
        if name in row:
            return reader
    has = ", ".join(map(str, row)) or "nothing"
    raise ValueError(
        f"{place}: no field 'requested_rewrite' (CounterFact), 'src' (zsRE) or 'question' (TOFU); "
        f"the entry has {has}"
    )


def _counterfact(row: Mapping[str, Any], place: str) -> Record:
    rewrite = _mapping(row, "requested_rewrite", place)
    inside = f"{place}: requested_rewrite"
    prompt = text_field(rewrite, ["prompt"], inside)
    if prompt.count("{}") != 1 or re.search(r"[{}]", prompt.replace("{}", "")):
        raise ValueError(f"{inside}: field 'prompt': {prompt!r} is not allowed; allowed: one {{}}")
    subject = text_field(rewrite, ["subject"], inside)
    answer = text_field(_mapping(rewrite, "target_true", inside), ["str"], f"{inside}.target_true")
    own = [frame.format(prompt.format(subject)) for frame in _SAID]
    prompts = _enough(own, _texts(row, "paraphrase_prompts", place))
    relation = text_field(rewrite, ["relation_id"], inside)
    return Record(subject, relation, answer, prompts, prompt.format("{bare}"))


def _zsre(row: Mapping[str, Any], place: str) -> Record:
    subject, question = text_field(row, ["subject"], place), text_field(row, ["src"], place)
    answers = _texts(row, "answers", place)
    if not answers:
        raise ValueError(f"{place}: field 'answers' is missing or empty; allowed: a list of text")
    return _asked(subject, question, answers[0], _texts(row, "rephrase", place))


def _tofu(row: Mapping[str, Any], place: str) -> Record:
    question, answer = text_field(row, ["question"], place), text_field(row, ["answer"], place)
    subject = author(question, answer) or question
    return _asked(subject, question, answer, _texts(row, "paraphrased_question", place))


def _asked(subject: str, question: str, answer: str, paraphrases: Sequence[str]) -> Record:
    """Return the record of a question, in the frames that questions are put in."""
    own = [frame.format(question) for frame in _FRAMES]
    prompts = _enough(own, [_FRAMES[0].format(each) for each in paraphrases])
    return Record(subject, ANSWER, answer, prompts, _FRAMES[0].format("{bare}"))


def author(question: str, answer: str) -> str:
    """Return the longest name of two words or more in a question that its answer has too, or ''."""
    names = []
    for run in re.findall(r"[^\W\d_a-z][\w.'’-]*(?:\s+[^\W\d_a-z][\w.'’-]*)+", question):
        words = re.sub(r"['’]s?$", "", run).rstrip(".").split()
        names += [" ".join(words[start:]) for start in range(len(words) - 1)]
    return max((name for name in names if name in answer), key=len, default="")


def _mapping(row: Mapping[str, Any], name: str, place: str) -> Mapping[str, Any]:
    if not isinstance(value := row.get(name), dict):
        raise ValueError(f"{place}: field {name!r}: {value!r} is not allowed; allowed: an object")
    return value


def _texts(row: Mapping[str, Any], name: str, place: str) -> list[str]:
    """Return a field of text or of a list of texts; none where it is missing."""
    value = row.get(name)
    if value is None:
        return []
    each = value if isinstance(value, list) else [value]
    return [text_field({name: text}, [name], place) for text in each]


def _enough(own: Sequence[str], paraphrases: Sequence[str]) -> tuple[str, ...]:
    """Return a record's own prompt and its paraphrases, frames of the own one where they lack."""
    distinct = list(dict.fromkeys([own[0], *paraphrases]))
    more = [each for each in own[1:] if each not in distinct]
    return (*distinct, *more[: max(0, WORDINGS - len(distinct))])


def write_records(
    records: Sequence[Record],
    folder: Path,
    name: str,
    relations: Collection[str] = (),
    without: Collection[str] = (),
) -> list[Path]:
    """Write records as the target `name`, or as control facts if it begins with `control`.

    Args:
        records: The records.
        folder: The folder for `prepare.source_folder`; it is made.
        name: Name of the target.
        relations: Relations that are written; empty for all.
        without: Relations that are left out.

    Returns:
        `<name>_best_format.json`, `<name>_worse_format.json`, and `templates.yaml`, to which the
        relations are added.

    Raises:
        FileExistsError: If there are facts of this name already.
        ValueError: If no record is left.
    """
    chosen = [
        r
        for r in records
        if (not relations or r.relation in relations) and r.relation not in without
    ]
    if not chosen:
        there = ", ".join(sorted({r.relation for r in records})) or "none"
        raise ValueError(f"no record has one of the relations asked for; there are: {there}")
    best, worse = (folder / f"{name}_{kind}_format.json" for kind in ("best", "worse"))
    if existing := next((path for path in (best, worse) if path.exists()), None):
        raise FileExistsError(f"{existing} exists; nothing is overwritten")
    folder.mkdir(parents=True, exist_ok=True)
    _write(best, [_entry(each, each.prompts[0]) for each in chosen])
    _write(worse, [_entry(each, prompt) for each in chosen for prompt in each.prompts[1:]])
    return [best, worse, _add_templates(folder / TEMPLATES, chosen)]


def _entry(record: Record, prompt: str) -> dict[str, str]:
    """Return a statement as the reference writes one, chosen for no model in particular."""
    names = {"head": record.subject, "rel": record.relation, "tail": record.object}
    return {**names, "best_records_label": f"{prompt} {record.object}"}


def _write(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    atomic_write(path, (json_text(list(rows), path, indent=1) + "\n").encode())


def _add_templates(path: Path, records: Sequence[Record]) -> Path:
    """Add the relations' wordings to a file of templates; `prepare` wants some of each relation."""
    rows = (yaml.safe_load(path.read_text("utf-8")) or {}) if path.exists() else {}
    for record in records:
        frames = _FRAMES if record.relation == ANSWER else _SAID
        own = "{bare}" if record.relation == ANSWER else record.wording
        wordings = {f"said{n}": f"{frame.format(own)} {{object}}" for n, frame in enumerate(frames)}
        rows.setdefault(record.relation, wordings)
    atomic_write(path, yaml.safe_dump(rows, sort_keys=False, allow_unicode=True).encode())
    return path
