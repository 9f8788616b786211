"""How long until a mask is good: the search of `params.yaml` beside the published algorithm.

    python -m benchmarks.quality building.n.01 0 [--limit 600] [--every 60] [--device cpu]

Run it in a checkout that holds `make repro`'s outputs. *search* is the pipeline's search with its
settings, *straightforward* the plain loop with those of `presets/paper.yaml`. Time is that of the
processor on one thread, the search's preparation included and scoring left out. Q: sparsity >=
.98, target PPL ratio >= 300, control <= 1.05 used and <= 1.08 held out, text <= 1.03 times
what removals at random cost on the mean.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch

from benchmarks.machine import clock
from benchmarks.straightforward import Straightforward
from knowsub.config import load_params
from knowsub.discovery.setup import SearchModel, build_trainer
from knowsub.kg.facts import Role, Split, Statement, read_statements
from knowsub.lm.batch import Batch, encode_statements, encode_text
from knowsub.lm.blocks import cache_lower_states
from knowsub.lm.load import context_length, open_model
from knowsub.lm.score import score
from knowsub.masks.ablation import ablated
from knowsub.masks.gates import Gates
from knowsub.masks.mask import Mask, PackedBits, random_masks

PAPER = {"suppression": 1.5, "control": 1.0, "text": 1.0, "sparsity": 2.0}
"""Coefficients of the paper; the sparsity's rises to 3 only in the second half of 40,000 steps."""
BATCHES = {"target": 250, "control": 250, "text": 10}
"""Sequences per step in the paper; all of a set that has fewer."""
SETS = {
    "target": (Split.TARGET, Role.TRAIN),
    "control": (Split.CONTROL_TRAIN, Role.TRAIN),
    "held out": (Split.CONTROL_HELDOUT, Role.TRAIN),
    "neighborhood": (Split.NEIGHBORHOOD_HELDOUT, Role.TRAIN),
}
RANDOM = 20
"""Random masks of the same size that text is compared with, on the mean."""
TEXTS = ("train", "test")
"""The text that masks are trained on, and the one they are judged on."""


class Evaluator:
    """Scores a mask on what a user would look at; its time is not measured."""

    def __init__(self, model: SearchModel, statements: list[Statement], text: str) -> None:
        """Score the original model on every set."""
        self.model, self.statements = model, statements
        decoder, tokenizer = model.model, model.tokenizer
        encoded = {"text": encode_text(tokenizer, text, model.options.block_tokens)}
        self.now = clock(decoder.device.type)
        for name, (split, role) in SETS.items():
            selected = [s for s in statements if s.split is split and s.role is role]
            encoded[name] = encode_statements(tokenizer, selected, context_length(decoder))
        self.sets = {
            name: cache_lower_states(decoder, model.first_block, batch.to(decoder.device))
            for name, batch in encoded.items()
        }
        self.original = {name: self._perplexity(name) for name in self.sets}

    def __call__(self, bits: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Return sparsity and PPL ratios of the model with a mask removed; `Q` is 1 or 0."""
        mask = Mask(dict(bits), "", {})
        metrics = {"sparsity": mask.sparsity} | self._ratios(mask, self.sets)
        others = random_masks(mask, RANDOM, torch.Generator().manual_seed(0))
        random = statistics.mean(self._ratios(other, ["text"])["text"] for other in others)
        removed = metrics["sparsity"] >= 0.98 and metrics["target"] >= 300
        preserved = metrics["control"] <= 1.05 and metrics["held out"] <= 1.08
        return metrics | {"Q": float(removed and preserved and metrics["text"] <= 1.03 * random)}

    def _ratios(self, mask: Mask, names: Iterable[str]) -> dict[str, float]:
        with ablated(self.model.model, self.model.matrices, mask):
            return {name: self._perplexity(name) / self.original[name] for name in names}

    def _perplexity(self, name: str) -> float:
        return score(self.model.upper, self.sets[name]).perplexity


def _expanded(gates: Gates, bits: PackedBits) -> Mapping[str, torch.Tensor]:
    return gates.to_mask(bits[:].cpu(), "", {}).bits


Step = tuple[float, Callable[[], Mapping[str, torch.Tensor]]]
"""Time of a step [s], and the mask after it."""


def searched(evaluator: Evaluator, text: str, seed: int) -> Iterator[Step]:
    """Yield the steps of the pipeline's search, the first with its preparation."""
    model, begin = evaluator.model, evaluator.now()
    trainer = build_trainer(model, evaluator.statements, text, seed)
    for _ in range(model.options.steps):
        trainer.curve.append(trainer.train_step())
        passed, gates = evaluator.now() - begin, trainer.gates
        bits = gates.hard_mask(model.options.max_density)
        yield passed, partial(_expanded, gates, bits)
        begin = evaluator.now()


def straightforward(evaluator: Evaluator, text: str, seed: int) -> Iterator[Step]:
    """Yield the steps of the published algorithm with the paper's settings, for ever."""
    model, generator = evaluator.model, torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    loop = Straightforward(model.model, model.matrices, 0.2, PAPER)
    blocks = encode_text(model.tokenizer, text, model.options.block_tokens)
    blocks = blocks.to(model.model.device)
    sets = {
        "target": evaluator.sets["target"],
        "control": evaluator.sets["control"],
        "text": blocks,
    }
    while True:
        begin = evaluator.now()
        loop.step(**{name: _draw(sets[name], BATCHES[name], generator) for name in sets})
        passed = evaluator.now() - begin
        yield passed, lambda: {name: logits.cpu() > 0 for name, logits in loop.logits.items()}


def _draw(batch: Batch, count: int, generator: torch.Generator) -> Batch:
    rows = torch.randperm(len(batch), generator=generator)[:count]
    return Batch(batch.tokens[rows], batch.target_mask[rows])


def main() -> None:
    """Print a row per look at the mask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("seed", type=int)
    parser.add_argument("--limit", type=float, default=600, help="of the plain loop [s]")
    parser.add_argument("--every", type=float, default=60, help="between two looks [s]")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", choices=["search", "straightforward"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    statements = [
        statement
        for folder in ("", "unseen/")
        for statement in read_statements(Path(f"data/verbalize/{folder}{given.target}.jsonl"))
    ]
    model = SearchModel(
        *open_model(Path("data/pretrain/model.json"), given.device), load_params().train
    )
    train_text, test_text = (Path(f"data/prepare/text/{n}.txt").read_text("utf-8") for n in TEXTS)
    evaluator = Evaluator(model, statements, test_text)
    for name, loop in {"search": searched, "straightforward": straightforward}.items():
        if given.only in (None, name):
            _follow(name, loop(evaluator, train_text, given.seed), evaluator, given)


def _follow(
    name: str, steps: Iterator[Step], evaluator: Evaluator, given: argparse.Namespace
) -> None:
    spent, due = 0.0, 0.0
    for index, (passed, bits) in enumerate(steps):
        spent += passed
        last = name == "search" and index + 1 == evaluator.model.options.steps
        if spent >= due or last:
            metrics = evaluator(bits())
            row = " | ".join(f"{value:.4g}" for value in metrics.values())
            if due == 0:
                print(
                    f"| loop | step | s | {' | '.join(metrics)} |\n|{' --- |' * (3 + len(metrics))}"
                )
            print(f"| {name} | {index + 1} | {spent:.1f} | {row} |", flush=True)
            due = spent + (given.every if name != "search" else given.every / 6)
        if spent > given.limit:
            return


if __name__ == "__main__":
    main()
