"""A hand-built model in which one weight alone holds one fact, and its knowledge graphs.

Every prompt is a template word and a head. The second of two blocks is an MLP whose neuron i fires
for head i alone and writes the direction of its tail; attention and the first block do nothing.
So the weight of `blocks.1.mlp_out` from neuron i to the tail's direction is fact i.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from knowsub.architectures import maskable_matrices
from knowsub.evaluation.context import EvalContext, open_context, text_blocks
from knowsub.evaluation.options import TestOptions
from knowsub.kg.facts import Fact, Role, Split, Statement
from knowsub.masks.mask import Mask

FAMILIES = {"kind": Role.TRAIN, "sort": Role.TRAIN, "variety": Role.VALIDATION, "isa": Role.TEST}
TAILS = 10
GROUPS = {"a": 5, "b": 5, "g": 10, "n": 5, "v": 2}
HEADS = [f"{group}{index}" for group, count in GROUPS.items() for index in range(count)]
WORDS = ["unk", *FAMILIES, *HEADS, *(f"t{index}" for index in range(TAILS))]
WIDTH, FIRST_TAIL = 64, 40


def tail_of(head: str) -> int:
    """The facts of b have tails 5 to 9; n are near facts that share the tails of a."""
    return int(head[1:]) + (5 if head[0] == "b" else 0)


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="unk"))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="unk")


@torch.no_grad()
def built_model() -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=len(WORDS), n_embd=WIDTH, n_layer=2, n_head=2, n_positions=16,
        activation_function="relu", tie_word_embeddings=False, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.fill_(1.0 if "ln_" in name and name.endswith("weight") else 0.0)
    mlp = model.transformer.h[1].mlp
    for place, head in enumerate(HEADS):
        model.transformer.wte.weight[WORDS.index(head), place] = 1.0
        mlp.c_fc.weight[place, place], mlp.c_fc.bias[place] = 1.0, -1.0
        mlp.c_proj.weight[place, FIRST_TAIL + tail_of(head)] = 1.0
    for index in range(TAILS):
        model.lm_head.weight[WORDS.index(f"t{index}"), FIRST_TAIL + index] = 2.0
    return model


def statements(target: str = "a") -> list[Statement]:
    """The knowledge graph whose target is group a or b; g are controls, n near facts."""
    splits = {
        target: Split.TARGET, "g": Split.CONTROL_TRAIN, "n": Split.NEIGHBORHOOD_HELDOUT,
        "v": Split.CONTROL_VALIDATION,
    }  # fmt: skip
    found = []
    for head in HEADS:
        if head[0] in splits:
            split = splits[head[0]]
            if head in ("g8", "g9"):
                split = Split.CONTROL_HELDOUT
            tail = f"t{tail_of(head)}"
            fact = Fact(f"{head}.n.01", "hypernym", f"{tail}.n.01", head, tail)
            for family, role in FAMILIES.items():
                found.append(
                    Statement(fact, split, family, role, f"{family} {head}", f" {tail}", 0.0)
                )
    return found


def fact_mask(model: GPT2LMHeadModel, heads: list[str]) -> Mask:
    """The mask of the weights that hold the facts of some heads."""
    bits = {
        site.name: torch.zeros(site.shape, dtype=torch.bool) for site in maskable_matrices(model)
    }
    for head in heads:
        bits["blocks.1.mlp_out"][HEADS.index(head), FIRST_TAIL + tail_of(head)] = True
    return Mask(bits, "built")


def built_bench(target: str = "a", model: GPT2LMHeadModel | None = None) -> EvalContext:
    model, words = model or built_model(), tokenizer()
    texts = {"text": text_blocks(words, "kind a0 t0 sort g1 t1 " * 8, 8)}
    return open_context(model, words, maskable_matrices(model), statements(target), texts)


def options(**changes: object) -> TestOptions:
    values: Mapping[str, object] = {
        "seed": 0, "block_tokens": 8, "text_blocks": 0, "control_prompts": 0, "random_masks": 9,
        "random_text_masks": 1, "recall": True, "forgetting": True, "paraphrase": True,
        "specificity": True, "located": True, "residual": True, "relearning": True,
        "quantise": True, "minimality": True, "cross_target": True, "baselines": True, "baseline_sizes": True,
        "distractors": 4, "reference_draws": 2, "reference_subjects": 0, "logit_lens_tokens": 20,
        "relearning_folds": 5, "relearning_steps": 8, "relearning_lr": 0.002, "bits": [8, 4],
        "resize": [0.4], "resamples": 200, "level": 0.95,
    }  # fmt: skip
    return TestOptions(**{**values, **changes})
