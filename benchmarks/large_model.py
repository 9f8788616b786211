"""Steps of a search at the shape of a large model, with random weights: time, peak, bytes per gate.

    python -m benchmarks.large_model --shape llama-3.1-8b [--device cuda] [--steps 10] [--masked 4]
        [--memory full | redrawn | 8bit]

The weights are bfloat16, random and frozen; the masked blocks are the last ones, half of all
unless said. Bytes per gate are what the tensors take beyond the weights, divided by the gates: the
activations of these short batches are in them. On the device `meta` nothing is computed: the bytes
of all tensors that a step makes are counted while they live, and only the blocks that a search
keeps are there. Nothing is written; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import weakref
from dataclasses import replace
from typing import Any, cast

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks import workload
from benchmarks.machine import clock, described, peak_memory
from benchmarks.workload import Shape
from knowsub.architectures import maskable_matrices
from knowsub.discovery.ignorance import Ignorance
from knowsub.discovery.options import GateMemory, Precision
from knowsub.discovery.step import TrainingData
from knowsub.discovery.teacher import TeacherStates
from knowsub.discovery.trainer import MaskTrainer
from knowsub.lm.blocks import upper_blocks
from knowsub.masks.gates import Gates

SHAPES = {
    "tiny": (64, 176, 4, 4, 2, 500, 16),
    "gpt2-xl": (1600, 6400, 48, 25, 25, 50_257, 64),
    "llama-3.2-1b": (2048, 8192, 16, 32, 8, 128_256, 64),
    "llama-3.2-3b": (3072, 8192, 28, 24, 8, 128_256, 128),
    "qwen3-4b": (2560, 9728, 36, 32, 8, 151_936, 128),
    "qwen3-8b": (4096, 12_288, 36, 32, 8, 151_936, 128),
    "llama-3.1-8b": (4096, 14_336, 32, 32, 8, 128_256, 128),
}
"""Hidden size, MLP size, blocks, query heads, key-value heads, vocabulary, size of a head."""


def build(name: str, device: str, blocks: int) -> PreTrainedModel:
    """Return a random model of a shape with so many blocks, frozen, in bfloat16."""
    hidden, inner, _, heads, shared, vocabulary, head = SHAPES[name]
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        if name.startswith("gpt2"):
            return workload.build(Shape(hidden, blocks, heads, vocabulary), device)
        config = LlamaConfig(
            hidden_size=hidden, intermediate_size=inner, num_hidden_layers=blocks,
            num_attention_heads=heads, num_key_value_heads=shared, vocab_size=vocabulary,
            head_dim=head, max_position_embeddings=1024,
            tie_word_embeddings=name in ("llama-3.2-1b", "llama-3.2-3b", "qwen3-4b"),
        )  # fmt: skip
        with torch.device(device):
            return cast(PreTrainedModel, LlamaForCausalLM(config).eval().requires_grad_(False))
    finally:
        torch.set_default_dtype(torch.float32)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are made on the meta device, as long as they live.

    Args:
        model: A model whose parameters are not counted.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known = {each.untyped_storage()._cdata for each in model.parameters()}

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), given: Any = None) -> Any:
        there = [each for each in args if isinstance(each, torch.Tensor) and each.is_meta]
        if there and str((given or {}).get("device")) == "cpu":  # values are read
            return torch.ones(there[0].shape, dtype=there[0].dtype)
        made = call(*args, **(given or {}))
        for each in tree_leaves(made):
            if isinstance(each, torch.Tensor) and each.is_meta:
                self._add(each.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def on_meta(model: PreTrainedModel, shape: Shape, **changes: Any) -> MaskTrainer:
    """Return a search over all blocks of a model on meta, its cached states without values."""
    target, control, text = (
        replace(batch, lower_states=torch.empty(
            *batch.tokens.shape, model.config.hidden_size, dtype=model.dtype, device="meta"
        ))
        for batch in workload.batches(shape)
    )  # fmt: skip

    def teacher(batch: Any) -> TeacherStates:
        most = int(batch.target_mask.sum(dim=1).max())
        return TeacherStates(batch, batch.lower_states[:, :most])

    none = torch.zeros(1, dtype=torch.long, device="meta")
    ignorance = Ignorance(none.float(), none, none, none.float()[:, None].expand(len(target), 1))
    data = TrainingData(target, teacher(control), None, 0, teacher(text), ignorance)
    gates = Gates(model, maskable_matrices(model, range(shape.blocks)))
    chosen = workload.options(shape, **changes)
    return MaskTrainer(gates, upper_blocks(model, 0), data, chosen, seed=0)


def main() -> None:
    """Take the steps and print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.1-8b")
    parser.add_argument("--device", choices=["cpu", "cuda", "meta"], default="cuda")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--masked", type=int, default=0, help="blocks with gates; 0 = half of all")
    parser.add_argument("--memory", choices=list(GateMemory), default=GateMemory.EIGHT_BIT)
    given = parser.parse_args()
    blocks, vocabulary = SHAPES[given.shape][2], SHAPES[given.shape][5]
    masked, changes = given.masked or blocks // 2, {"gate_memory": GateMemory(given.memory)}
    found = counted if given.device == "meta" else measured
    weights, gates, peak, more = found(given, Shape(vocabulary=vocabulary), masked, changes)
    print(json.dumps({
        "shape": given.shape, "memory": given.memory, "device": given.device, "gates": gates,
        "weights_gb": weights / 1e9, "peak_gb": peak / 1e9,
        "bytes_per_gate": (peak - weights) / gates, **more,
    }))  # fmt: skip


Found = tuple[int, int, int, dict[str, object]]
"""Bytes of the weights, number of gates, peak in bytes, and the rest."""


def counted(given: argparse.Namespace, shape: Shape, masked: int, changes: dict[str, Any]) -> Found:
    """Count the bytes of the second step's tensors on the meta device."""
    model = build(given.shape, "meta", masked)
    live = LiveBytes(model)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    with live:
        shape = replace(shape, blocks=masked)
        # its parameters are bfloat16; there is no autocast on meta
        trainer = on_meta(model, shape, blocks=f"0:{masked}", **changes)
        trainer.train_step()
        held, live.peak = live.now, live.now
        trainer.train_step()
    kept: dict[str, object] = {"held_bytes_per_gate": held / trainer.gates.logits.numel()}
    return weights, trainer.gates.logits.numel(), weights + live.peak, kept


def measured(
    given: argparse.Namespace, shape: Shape, masked: int, changes: dict[str, Any]
) -> Found:
    """Take the steps on a device."""
    blocks, now = SHAPES[given.shape][2], clock(given.device)
    shape = replace(shape, blocks=blocks)
    model = build(given.shape, given.device, blocks)
    chosen = {"precision": Precision.BFLOAT16, "blocks": f"{blocks - masked}:{blocks}", **changes}
    trainer, taken = workload.search(model, shape, **chosen), []
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    for _ in range(given.steps):
        begin = now()
        trainer.train_step()
        taken.append(now() - begin)
    tokens = (shape.target + shape.control) * (shape.statement - 1) + shape.text * (shape.block - 1)
    step = statistics.median(taken)
    more = {"step_s": step, "tokens_per_s": tokens / step}
    machine = described(given.device, torch.get_num_threads())
    peak = peak_memory(given.device)
    return weights, trainer.gates.logits.numel(), peak, {"machine": machine, **more}


if __name__ == "__main__":
    main()
