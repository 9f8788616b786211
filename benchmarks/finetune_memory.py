"""Memory that one finetuning run takes beyond the original model, at GPT-2 small's shape.

    python -m benchmarks.finetune_memory [--blocks N] [--width N]

Random weights, a random mask of 2 % of the upper half, a CPU. For each adaptation the bytes of the
parameters that a choice model does not share with the original, and the greatest resident memory
above the original's while the model is made and trained for two steps (Linux: VmHWM).
"""

from __future__ import annotations

import argparse
import gc
import itertools
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from knowsub.architectures import maskable_matrices
from knowsub.config import load_params
from knowsub.downstream.finetune import Schedule, finetune
from knowsub.downstream.model import FinetuneContext
from knowsub.downstream.options import Adaptation
from knowsub.downstream.questions import Group, Question
from knowsub.masks.mask import Mask

WORDS = [f"w{index}" for index in range(100)]


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of a hundred words."""
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0")


def questions(count: int = 16) -> list[Question]:
    """Return questions of five choices."""
    return [
        Question(f"q{i}", f"w{i} w1 w2", tuple(f" w{20 + i + step}" for step in range(5)), i % 5,
                 Group.OTHER, f"s{i}|r|o{i}")
        for i in range(count)
    ]  # fmt: skip


def resident(field: str) -> float:
    """Return a field of the process's status, such as VmHWM [MB]."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith(field))


def main() -> None:
    """Print one line per adaptation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    given = parser.parse_args()
    torch.set_num_threads(1)
    config = GPT2Config(n_layer=given.blocks, n_embd=given.width, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    mask = Mask({m.name: torch.rand(m.shape) < 0.02 for m in maskable_matrices(model)}, "random")
    options = load_params(presets=["paper-gpt2"]).finetune
    context = FinetuneContext(model, tokenizer(), {"remaining": mask}, options)
    train = context.encode(questions())
    original = {parameter.data_ptr() for parameter in model.parameters()}
    schedule = Schedule(2, 8, 1e-3, 1e-4, 2, 3, 0)
    print(f"original: {sum(p.numel() for p in model.parameters()) * 4 / 1e6:,.0f} MB", sys.platform)
    for adaptation in Adaptation:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # begins VmHWM anew
        before = resident("VmRSS")
        run = context.choice_model("remaining", adaptation, 0, train)
        tensors = itertools.chain(run.model.parameters(), run.head.parameters())
        own = sum(4 * p.numel() for p in tensors if p.data_ptr() not in original)
        finetune(run, train, {"validation": train}, schedule, lambda points: None)
        peak = resident("VmHWM") - before
        print(f"{adaptation}: own parameters {own / 1e6:,.0f} MB, peak {peak:,.0f} MB", flush=True)
        del run


if __name__ == "__main__":
    main()
