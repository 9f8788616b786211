"""Every path around a model's own forward pass against plain Hugging Face, on every architecture.

The cases are those in which public tools went wrong: tied and untied heads, biases, soft caps,
projections, windows, padded vocabularies, shards, bfloat16 checkpoints.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from knowsub.architectures import maskable_matrices
from knowsub.discovery.kernels import can_pack, last_hidden_varlen, target_states
from knowsub.discovery.options import Precision
from knowsub.discovery.teacher import cache_teacher, cache_teacher_states
from knowsub.lm.batch import Batch
from knowsub.lm.blocks import cache_lower_states, cut_error, last_hidden, upper_blocks
from knowsub.lm.export import save_model
from knowsub.lm.head import lm_head
from knowsub.lm.identity import fingerprint
from knowsub.lm.load import load_model
from knowsub.lm.score import score
from knowsub.masks.ablation import ablate_, ablated
from knowsub.masks.mask import Mask
from tests.architectures import ALIKE, CONFIGS, EAGER, VOCAB, tiny
from tests.lm.setting import small_tokenizer

TOKENIZER = cache(small_tokenizer)
FIRST = 2
KINDS: dict[str, PretrainedConfig] = CONFIGS | ALIKE
WINDOW = 4  # shorter than the sequences

CHANGED: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma2-no-caps": ("gemma2", {"final_logit_softcapping": None, "attn_logit_softcapping": None}),
    "gemma2-window": ("gemma2", {"sliding_window": WINDOW}),
    "gemma3-bias": ("gemma3_text", {"attention_bias": True}),
    "gemma3-caps": ("gemma3_text", {"final_logit_softcapping": 2.0}),
    "gemma3-window": ("gemma3_text", {"sliding_window": WINDOW}),
    "gpt2-scaled-by-layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "gpt_neox-sequential": ("gpt_neox", {"use_parallel_residual": False}),
    "llama-bias": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-padded-vocabulary": ("llama", {"vocab_size": VOCAB + 19}),
    "llama-wide-heads": ("llama", {"head_dim": 8}),
    "mistral-window": ("mistral", {"sliding_window": WINDOW}),
    "olmo-clipped": ("olmo", {"clip_qkv": 0.5}),
    "opt-350m": ("opt", {"word_embed_proj_dim": 8, "do_layer_norm_before": False}),
    "opt-post-norm": ("opt", {"do_layer_norm_before": False}),
    "opt-projected": ("opt", {"word_embed_proj_dim": 8}),
    "phi-normed-heads": ("phi", {"qk_layernorm": True}),
    "phi3-window": ("phi3", {"sliding_window": WINDOW}),
    "qwen2-window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    ),
    "stablelm-parallel": ("stablelm", {"use_parallel_residual": True}),
    "starcoder2-window": ("starcoder2", {"sliding_window": WINDOW}),
}
CASES = [
    *KINDS,
    *CHANGED,
    *(f"{kind}:head" for kind in KINDS if kind not in {"gptj", "phi"}),  # their head has a bias
]


def changed(config: PretrainedConfig, values: dict[str, Any]) -> PretrainedConfig:
    """Return a configuration with other values, what depends on them computed again."""
    known = {name: value for name, value in config.to_dict().items() if name != "model_type"}
    if "max_window_layers" in values:
        known.pop("layer_types", None)
    return type(config)(**(known | values))


@cache
def built(case: str) -> PreTrainedModel:
    """Return the model of a case; `<kind>:head` has a tied head where the kind has none."""
    kind, _, head = case.partition(":")
    parent, values = CHANGED.get(kind, (kind, {}))
    if head:
        values = values | {"tie_word_embeddings": not KINDS[kind].tie_word_embeddings}
    return tiny(changed(KINDS[parent], values) if values else parent, attention="sdpa")


def batch_of(rows: int = 3, width: int = 11, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, VOCAB, (rows, width), generator=generator)
    target_mask = torch.rand(rows, width, generator=generator) < 0.4
    target_mask[:, 1], target_mask[:, -1] = True, False
    return Batch(tokens, target_mask)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def random_mask(model: PreTrainedModel) -> Mask:
    generator = torch.Generator().manual_seed(7)
    bits = {
        matrix.name: torch.rand(matrix.shape, generator=generator) < 0.1
        for matrix in maskable_matrices(model)
    }
    return Mask(bits, "")


@pytest.fixture(params=CASES)
def model(request: pytest.FixtureRequest) -> Iterator[PreTrainedModel]:
    """A model that a test leaves as it was."""
    made = built(request.param)
    before = [parameter.clone() for parameter in made.parameters()]
    yield made
    assert all(map(torch.equal, before, made.parameters()))


def test_the_cases_are_what_they_say() -> None:
    tied = {case: built(case).config.tie_word_embeddings for case in CASES}
    assert all(tied[case] != tied[case.removesuffix(":head")] for case in CASES if ":" in case)
    assert built("opt-350m").get_output_embeddings().weight.shape == (VOCAB, 8)
    assert built("opt-350m").model.decoder.final_layer_norm is None
    batch = batch_of()
    for case, (parent, _) in CHANGED.items():
        if built(case).get_output_embeddings().weight.shape[0] == VOCAB:
            pair = [built(name)(batch.tokens).logits for name in (case, parent)]
            assert not torch.allclose(*pair), case


def test_lower_blocks_upper_blocks_and_head_give_the_models_logits(model: PreTrainedModel) -> None:
    batch = batch_of()
    expected = model(batch.tokens).logits
    for first in (1, FIRST, 3):
        upper, cached = upper_blocks(model, first), cache_lower_states(model, first, batch)
        close(lm_head(model)(last_hidden(upper, cached)), expected)
    assert cut_error(model) <= 1e-5


def test_scores_are_those_of_plain_cross_entropy(model: PreTrainedModel) -> None:
    batch = batch_of()
    logits = model(batch.tokens).logits[batch.target_mask]
    nll = functional.cross_entropy(logits, batch.labels[batch.target_mask], reduction="none")
    row = batch.target_mask.nonzero()[:, 0]
    close(score(model, batch).nll, torch.zeros(len(batch)).index_add(0, row, nll))


def test_the_last_mlp_at_the_targets_alone_gives_the_models_logits_there(
    model: PreTrainedModel,
) -> None:
    batch = batch_of()
    states = target_states(
        upper_blocks(model, FIRST), {"text": cache_lower_states(model, FIRST, batch)}
    )
    close(lm_head(model)(states["text"]), model(batch.tokens).logits[batch.target_mask])


def test_sequences_in_one_row_give_the_models_logits_or_are_refused(model: PreTrainedModel) -> None:
    batches = [batch_of(3, 5), batch_of(2, 11, seed=1)]
    packed, kind = can_pack(upper_blocks(model, FIRST), 11), model.config.model_type
    types = getattr(model.config, "layer_types", None) or ["sliding_attention"]
    window = model.config.to_dict().get("sliding_window") or 11
    windowed = "sliding_attention" in types and window < 11
    # StableLM's blocks do not hand on to their attention which sequences share the row.
    assert (packed is None) == (kind in EAGER or windowed or kind == "stablelm")
    if packed is not None:
        cached = [cache_lower_states(model, FIRST, batch) for batch in batches]
        logits = lm_head(model)(last_hidden_varlen(packed, cached))[0]
        expected = [model(batch.tokens).logits.flatten(0, 1) for batch in batches]
        close(logits, torch.cat(expected))


@pytest.mark.parametrize("states", [False, True], ids=["cheapest", "teacher states"])
def test_divergence_and_its_gradient_are_those_of_plain_autograd(
    model: PreTrainedModel, states: bool
) -> None:
    batch, mask, matrices = batch_of(), random_mask(model), maskable_matrices(model)
    upper, cached = upper_blocks(model, FIRST), cache_lower_states(model, FIRST, batch)
    teacher = (
        cache_teacher_states(upper, cached)
        if states
        else cache_teacher(upper, cached, Precision.FLOAT32)
    )
    original = model(batch.tokens).logits[batch.target_mask].log_softmax(-1)
    with ablated(model, matrices, mask):
        weight = model.get_submodule(matrices[0].parameter.removesuffix(".weight"))._parameters
        assert weight["weight"] is not None
        weight["weight"].requires_grad_()
        q = model(batch.tokens).logits[batch.target_mask].log_softmax(-1)
        expected = functional.kl_div(q, original, log_target=True, reduction="sum")
        now = target_states(upper, {"text": cached})["text"]
        actual = teacher.divergence(lm_head(upper), now, torch.arange(len(batch)))
        close(actual, expected)
        grads = [torch.autograd.grad(loss, weight["weight"])[0] for loss in (actual, expected)]
    assert (grads[0] - grads[1]).norm() <= 1e-5 * grads[1].norm()


SAVED = [*KINDS, "opt-350m", "llama-padded-vocabulary", "gemma3-window", "phi3-window"]
SAVED_IN_SHARDS = ["gpt2", "llama", "gemma2", "opt-350m"]
SAVED_IN_BFLOAT16 = sorted({*CONFIGS, "cohere", "opt-350m"})


@pytest.mark.parametrize("case", SAVED)
def test_a_removed_model_saved_and_opened_by_transformers_is_the_one_in_memory(
    case: str, tmp_path: Path
) -> None:
    model, batch = built(case), batch_of()
    mask, matrices = random_mask(model), maskable_matrices(model)
    remaining = copy.deepcopy(model)
    ablate_(remaining, matrices, mask)
    remaining.save_pretrained(tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with ablated(model, matrices, mask):
        upper, cached = upper_blocks(model, FIRST), cache_lower_states(model, FIRST, batch)
        close(lm_head(upper)(last_hidden(upper, cached)), opened(batch.tokens).logits)


@pytest.mark.parametrize("case", SAVED_IN_SHARDS)
def test_a_checkpoint_in_shards_is_opened_whole(case: str, tmp_path: Path) -> None:
    built(case).save_pretrained(tmp_path, max_shard_size="4KB")
    TOKENIZER().save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert fingerprint(load_model(tmp_path)[0]) == fingerprint(built(case))


@pytest.mark.parametrize("case", SAVED_IN_BFLOAT16)
def test_a_bfloat16_checkpoint_gives_its_own_logits_and_keeps_its_dtype(
    case: str, tmp_path: Path
) -> None:
    """Logits differ by a unit of bfloat16's last digit, 2^-8 of the largest, at most by two."""
    save_model(copy.deepcopy(built(case)).bfloat16(), TOKENIZER(), tmp_path)
    model, batch = load_model(tmp_path, dtype="auto")[0], batch_of()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    upper, cached = upper_blocks(model, FIRST), cache_lower_states(model, FIRST, batch)
    logits = lm_head(upper)(last_hidden(upper, cached)).float()
    expected = (
        AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
        .eval()(batch.tokens)
        .logits.float()
    )
    assert (logits - expected).abs().max() <= 2 * 2**-8 * expected.abs().max()
    assert fingerprint(model.float(), torch.bfloat16) == fingerprint(model.bfloat16())
