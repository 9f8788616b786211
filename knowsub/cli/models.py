"""The commands that need a model: `remove`, `predict`, `score`."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from knowsub.architectures import MaskableMatrix
from knowsub.cli.app import Result, columns
from knowsub.kg.facts import Fact, Role, Split, Statement
from knowsub.lm.batch import Batch, as_prompt, encode_statements, tokenize
from knowsub.lm.export import ModelCard, export_model, license_of
from knowsub.lm.identity import identity, require_made_for
from knowsub.lm.load import (
    context_length,
    load_model,
    open_model,
    read_manifest,
    resolve_model,
)
from knowsub.lm.nf4 import dequantize_
from knowsub.lm.score import score, target_logits
from knowsub.masks.ablation import ablate_, ablated, all_matrices
from knowsub.masks.mask import Mask, load_mask
from knowsub.report.collect import read_json
from knowsub.report.metrics import METRIC_SPECS, format_metric, specified


@dataclass(frozen=True)
class OpenModel:
    """A model that a command works on."""

    model: PreTrainedModel
    """The model."""
    tokenizer: PreTrainedTokenizerBase
    """Its tokenizer."""
    name: str
    """Hub id or folder."""
    revision: str
    """Commit of a hub model; empty for a folder."""
    fingerprint: str
    """Fingerprint of its weights, configuration and tokenizer."""

    @property
    def matrices(self) -> tuple[MaskableMatrix, ...]:
        """All matrices that a mask may cover."""
        return all_matrices(self.model)

    def mask(self, path: Path) -> Mask:
        """Return a mask of this model, in any dtype (ValueError if it is of another one)."""
        mask = load_mask(path)
        require_made_for(mask.model, self.model, self.tokenizer, known=self.fingerprint)
        return mask

    @contextmanager
    def views(self, without: Path | None) -> Iterator[dict[str, AbstractContextManager[None]]]:
        """Yield context managers: `original`, and `remaining` if a mask is named."""
        views: dict[str, AbstractContextManager[None]] = {"original": nullcontext()}
        if without is not None:
            views["remaining"] = ablated(self.model, self.matrices, self.mask(without))
        with torch.inference_mode():
            yield views


def open_named(name: str, dtype: str = "float32") -> OpenModel:
    """Open a `model.json`, a Hugging Face folder or a hub id, on the CPU.

    The dtype is that of `load_model`; a `model.json` is opened in its own unless it is `auto`.
    Raises FileNotFoundError if there is no such model, and ValueError if it cannot be opened or is
    not the pinned one.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if name.endswith(".json"):
        manifest = read_manifest(Path(name))
        base, revision = str(Path(name).parent / manifest["path"]), ""
        if not Path(base).is_dir():
            base, revision = manifest["path"], manifest["revision"]
        opened = open_model(Path(name), dtype="auto" if dtype == "auto" else "")
        return OpenModel(*opened, base, revision, manifest["fingerprint"])
    source = resolve_model(name)
    model, tokenizer = load_model(source.folder, dtype=dtype)
    return OpenModel(model, tokenizer, name, source.revision, identity(model, tokenizer))


def remove_mask(name: str, mask_file: Path, out: Path) -> Result:
    """Write a model without a subnetwork, and return its folder, fingerprint and the mask's size.

    It is written in the checkpoint's dtype, weights in nf4 as the numbers that they stand for; a
    model that is there is replaced. Raises ValueError if the mask is of another model.
    """
    opened = open_named(name, dtype="auto")
    mask = opened.mask(mask_file)
    ablate_(opened.model, opened.matrices, mask)
    nf4_blocks = dequantize_(opened.model)
    card = ModelCard(
        base=opened.name,
        revision=opened.revision,
        base_fingerprint=opened.fingerprint.partition("-")[0],
        knowledge=mask.meta.get("target", mask_file.stem),
        removed=mask.size,
        maskable=mask.maskable,
        made=dict(mask.meta),
        nf4_blocks=nf4_blocks,
        license=license_of(resolve_model(opened.name, opened.revision).folder),
        metrics=tested(mask_file),
    )
    folder = out.with_name(f".{out.name}.new") if out.exists() else out
    export_model(opened.model, opened.tokenizer, folder, card)
    if folder != out:  # the old folder is deleted only when the new one is complete
        shutil.rmtree(out)
        folder.rename(out)
    result = {"written": str(out), "weights": mask.size, "sparsity": mask.sparsity}
    return result | {"fingerprint": identity(opened.model, opened.tokenizer)}


CARD_METRICS = ("target_ppl_ratio", "paraphrase_ppl_ratio", "heldout_ppl_ratio", "text_vs_random")
"""Metrics on the card of a remaining model."""


def tested(mask_file: Path) -> dict[str, str]:
    """Return what the stage `test` found of a mask of the pipeline, label -> value; {} if nothing.

    `data/train/building.n.01-0/mask.safetensors` was tested in `data/test/building.n.01-0`.
    """
    folder = mask_file.resolve().parent
    found = read_json(folder.parent.parent / "test" / folder.name / "figures.json").get(
        "figures", {}
    )
    metrics = specified(found)
    return {
        METRIC_SPECS[n].label: format_metric(n, metrics[n]) for n in CARD_METRICS if n in metrics
    }


def predictions(name: str, prompt: str, without: Path | None, top: int) -> Result:
    """Return `answers`: original or remaining -> the top next tokens with their probabilities.

    Raises ValueError if the mask is of another model, or the prompt is empty or too long.
    """
    prompt = prompt.rstrip(" ")  # the space before a word is the first character of its token
    opened = open_named(name)
    (tokens,) = tokenize(opened.tokenizer, [as_prompt(opened.tokenizer, prompt)])
    limit = context_length(opened.model)
    if not 0 < len(tokens) <= limit:
        raise ValueError(f"the prompt has {len(tokens)} tokens; the model takes 1 to {limit}")
    target_mask = torch.zeros(1, len(tokens), dtype=torch.bool)
    target_mask[0, -1] = True
    batch = Batch(torch.tensor([tokens]), target_mask)
    answers: dict[str, list[list[Any]]] = {}
    with opened.views(without) as views:
        for view, weights in views.items():
            with weights:
                _, logits, _ = next(target_logits(opened.model, batch))
            best = logits[0].float().softmax(dim=0).topk(min(top, logits.shape[1]))
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            answers[view] = [[opened.tokenizer.decode([token]), value] for token, value in pairs]
    return {"prompt": prompt, "answers": answers}


def prediction_lines(result: Result) -> list[str]:
    """Return the text of `predictions`' result, the models side by side."""
    views = result["answers"]
    rows = [["", *(cell for view in views for cell in (view, ""))]]
    for number, pairs in enumerate(zip(*views.values(), strict=True), start=1):
        cells = [cell for word, p in pairs for cell in (repr(word)[1:-1], f"{p:.1%}")]
        rows.append([str(number), *cells])
    return [result["prompt"], *columns(rows)]


def scores(name: str, prompt: str, answer: str, without: Path | None) -> Result:
    """Return `scores`: original or remaining -> NLL, perplexity, rank and length of an answer.

    `nll` in nats per token; `rank` is 0-based, that of the worst token. Spaces between prompt and
    answer belong to the answer, which has one space before it, or none after a line break. Raises
    ValueError if the mask is of another model, or prompt or answer are empty or too long.
    """
    prompt, answer = split_at_answer(prompt, answer)
    opened = open_named(name)
    fact = Fact(prompt, "", answer, prompt, answer)
    statement = Statement(fact, Split.TARGET, "", Role.TEST, prompt, answer)
    batch = encode_statements(opened.tokenizer, [statement], context_length(opened.model))
    results = {}
    with opened.views(without) as views:
        for view, weights in views.items():
            with weights:
                scored = score(opened.model, batch)
            nll = float(scored.mean_nll[0])
            results[view] = {
                "nll": nll,
                "perplexity": math.exp(min(nll, 700.0)),
                "rank": int(scored.rank[0]),
                "tokens": int(scored.tokens[0]),
            }
    return {"prompt": prompt, "answer": answer, "scores": results}


def split_at_answer(prompt: str, answer: str) -> tuple[str, str]:
    """Return prompt and answer as tokenizers join them: `kind of` and ` building`.

    Raises ValueError if the answer is empty.
    """
    prompt, words = prompt.rstrip(" "), answer.strip(" ")
    if not words.strip():
        raise ValueError(f"the answer {answer!r} is empty; it needs at least one word to score")
    return prompt, words if prompt[-1:].isspace() or words[0].isspace() else f" {words}"


def score_lines(result: Result) -> list[str]:
    """Return the text of `scores`' result."""
    rows = [["", "NLL [nats per token]", "perplexity", "rank"]]
    for view, scored in result["scores"].items():
        nll, perplexity = f"{scored['nll']:.3f}", f"{scored['perplexity']:,.2f}"
        rows.append([view, nll, perplexity, str(scored["rank"])])
    return [f"{result['prompt']}{result['answer']}", *columns(rows)]
