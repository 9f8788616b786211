"""Figures fact by fact, for the reader who wants to see what the averages hide."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from knowsub.evaluation.bench import Bench, View, best_prompts
from knowsub.evaluation.items import BUCKET, Items
from knowsub.lm.score import Scores, read_logits

TOP = 5
"""Answers shown per prompt."""


def best_items(bench: Bench) -> Items:
    """Return the trained prompt of lowest NLL of each target fact, ready to be asked."""
    return bench.reader.items(best_prompts(bench.sets["target"].statements, 1))


@torch.no_grad()
def top_answers(bench: Bench, items: Items) -> dict[str, list[list[str | float]]]:
    """Return the first tokens that the model, as it is now, would answer with.

    Args:
        bench: The bench.
        items: One prompt per fact.

    Returns:
        Key of each fact -> five pairs of token text and probability [fraction], best first.
    """
    found: dict[str, list[list[str | float]]] = {}
    for rows, batch in zip(items.rows, items.batches, strict=True):
        asked = replace(batch, reads=batch.first_reads)
        _, logits, _ = next(read_logits(bench.upper, asked, BUCKET))
        top = logits.float().softmax(dim=-1).topk(TOP)
        for row, tokens, values in zip(rows.tolist(), top.indices, top.values, strict=True):
            words = [str(bench.reader.tokenizer.decode([token])) for token in tokens.tolist()]
            pairs = zip(words, values.tolist(), strict=True)
            key = items.statements[row].fact.key
            found[key] = [[word, round(value, 6)] for word, value in pairs]
    return found


def fact_rows(
    bench: Bench,
    views: Mapping[str, View],
    answers: Mapping[str, Mapping[str, list[list[str | float]]]],
) -> Iterator[dict[str, Any]]:
    """Yield one row per fact, set and view.

    Args:
        bench: The bench.
        views: `original`, `remaining`, `random` -> what each says.
        answers: View -> `top_answers` of it.

    Yields:
        `fact`, `head`, `tail`, `split`, `role`, `view`, `nll` [nats per tail token], `rank` and
        `correct` (means over the fact's prompts in that role), `prompts` (their number), and
        for target facts on trained prompts `top5` where the view has answers.
    """
    for view, says in views.items():
        for name, scores in says.sets.items():
            for row in _set_rows(bench.sets[name], scores):
                row["view"] = view
                if name == "target" and view in answers:
                    row["top5"] = answers[view][row["fact"]]
                yield row


def _set_rows(items: Items, scores: Scores) -> Iterator[dict[str, Any]]:
    first = {one.fact: one for one in reversed(items.statements)}
    prompts = torch.bincount(items.owner, minlength=len(items.facts)).tolist()
    columns = [
        items.per_fact(one).tolist() for one in (scores.mean_nll, scores.rank, scores.correct)
    ]
    for fact, nll, rank, correct, count in zip(items.facts, *columns, prompts, strict=True):
        yield {
            "fact": fact.key,
            "head": fact.head_words,
            "tail": fact.tail_words,
            "split": str(first[fact].split),
            "role": str(first[fact].role),
            "nll": round(nll, 6),
            "rank": rank,
            "correct": correct,
            "prompts": count,
        }


def write_evidence(
    out: Path, found: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]
) -> list[Path]:
    """Write what was found about one mask.

    Args:
        out: Folder, made where it is missing.
        found: Figures and their statistics; only finite numbers.
        rows: Rows of `fact_rows`.

    Returns:
        The files `figures.json` and `facts.jsonl`.

    Raises:
        ValueError: If a number is not finite.
    """
    out.mkdir(parents=True, exist_ok=True)
    figures, facts = out / "figures.json", out / "facts.jsonl"
    figures.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    facts.write_text("".join(lines), encoding="utf-8")
    return [figures, facts]
