"""Steps of a search at the shape of a large model, with random weights: time, peak, bytes per gate.

    python -m benchmarks.large_model --shape llama-3.1-8b [--device cuda] [--steps 10] [--masked 4]

The weights are bfloat16, random and frozen; the masked blocks are the last ones, half of all
unless said. Bytes per gate are what the tensors take beyond the weights, divided by the gates: the
activations of these short batches are in them. Nothing is written; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks.machine import clock, described, peak_memory
from benchmarks.workload import Shape, search
from knowsub.discovery.options import Precision

SHAPES = {
    "tiny": (64, 176, 4, 4, 2, 500),
    "llama-3.2-1b": (2048, 8192, 16, 32, 8, 128_256),
    "llama-3.2-3b": (3072, 8192, 28, 24, 8, 128_256),
    "qwen3-4b": (2560, 9728, 36, 32, 8, 151_936),
    "llama-3.1-8b": (4096, 14_336, 32, 32, 8, 128_256),
}
"""Hidden size, MLP size, blocks, query heads, key-value heads, vocabulary."""


def build(name: str, device: str) -> PreTrainedModel:
    """Return a random Llama of a shape, frozen, in bfloat16."""
    hidden, inner, blocks, heads, shared, vocabulary = SHAPES[name]
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=inner, num_hidden_layers=blocks,
        num_attention_heads=heads, num_key_value_heads=shared, vocab_size=vocabulary,
        head_dim=hidden // heads, max_position_embeddings=1024,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return LlamaForCausalLM(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)


def main() -> None:
    """Take the steps and print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.1-8b")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--masked", type=int, default=0, help="blocks with gates; 0 = half of all")
    given = parser.parse_args()
    blocks, vocabulary = SHAPES[given.shape][2], SHAPES[given.shape][5]
    shape, now = Shape(vocabulary=vocabulary, blocks=blocks), clock(given.device)
    model = build(given.shape, given.device)
    first = blocks - (given.masked or blocks // 2)
    trainer = search(model, shape, precision=Precision.BFLOAT16, blocks=f"{first}:{blocks}")
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    gates, taken = trainer.gates.logits.numel(), []
    for _ in range(given.steps):
        begin = now()
        trainer.train_step()
        taken.append(now() - begin)
    tokens = (shape.target + shape.control) * (shape.statement - 1) + shape.text * (shape.block - 1)
    step, peak = statistics.median(taken), peak_memory(given.device)
    found = {
        "shape": given.shape, "machine": described(given.device, torch.get_num_threads()),
        "gates": gates, "step_s": step, "tokens_per_s": tokens / step, "peak_gb": peak / 1e9,
        "weights_gb": weights / 1e9, "bytes_per_gate": (peak - weights) / gates,
    }  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
