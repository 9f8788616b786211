"""A hand-built model in which one weight alone holds one fact, and its knowledge graphs.

Every prompt is a template word and a subject. The second of two blocks is an MLP whose neuron i
fires for subject i alone and writes the direction of its object; attention and the first block do
nothing. So the weight of `blocks.1.mlp_out` from neuron i to the object's direction is fact i.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import TypeAdapter
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from knowsub.architectures import maskable_matrices
from knowsub.evaluation.context import EvalContext, open_context
from knowsub.evaluation.options import TestOptions
from knowsub.kg.facts import Fact, Role, Split, Statement
from knowsub.lm.batch import encode_text
from knowsub.masks.mask import Mask

FAMILIES = {"kind": Role.TRAIN, "sort": Role.TRAIN, "variety": Role.VALIDATION, "isa": Role.TEST}
N_OBJECTS = 10
GROUPS = {"a": 5, "b": 5, "g": 10, "n": 5, "v": 2}
SUBJECTS = [f"{group}{index}" for group, count in GROUPS.items() for index in range(count)]
WORDS = ["unk", *FAMILIES, *SUBJECTS, *(f"t{index}" for index in range(N_OBJECTS))]
WIDTH, FIRST_OBJECT = 64, 40


def object_of(subject: str) -> int:
    """The facts of b have objects 5 to 9; n are neighborhood facts that share the objects of a."""
    return int(subject[1:]) + (5 if subject[0] == "b" else 0)


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
    for neuron, subject in enumerate(SUBJECTS):
        model.transformer.wte.weight[WORDS.index(subject), neuron] = 1.0
        mlp.c_fc.weight[neuron, neuron], mlp.c_fc.bias[neuron] = 1.0, -1.0
        mlp.c_proj.weight[neuron, FIRST_OBJECT + object_of(subject)] = 1.0
    for index in range(N_OBJECTS):
        model.lm_head.weight[WORDS.index(f"t{index}"), FIRST_OBJECT + index] = 2.0
    return model


def statements(target: str = "a") -> list[Statement]:
    """The knowledge graph whose target is group a or b; g are controls, n neighborhood facts."""
    splits = {
        target: Split.TARGET, "g": Split.CONTROL_TRAIN, "n": Split.NEIGHBORHOOD_HELDOUT,
        "v": Split.CONTROL_VALIDATION,
    }  # fmt: skip
    rows = []
    for subject in SUBJECTS:
        if subject[0] in splits:
            split = Split.CONTROL_HELDOUT if subject in ("g8", "g9") else splits[subject[0]]
            words = f"t{object_of(subject)}"
            fact = Fact(f"{subject}.n.01", "hypernym", f"{words}.n.01", subject, words)
            for family, role in FAMILIES.items():
                prompt = f"{family} {subject}"
                rows.append(Statement(fact, split, family, role, prompt, f" {words}", 0.0))
    return rows


def fact_mask(model: GPT2LMHeadModel, subjects: list[str]) -> Mask:
    """The mask of the weights that hold the facts of some subjects."""
    bits = {
        matrix.name: torch.zeros(matrix.shape, dtype=torch.bool)
        for matrix in maskable_matrices(model)
    }
    for subject in subjects:
        bits["blocks.1.mlp_out"][SUBJECTS.index(subject), FIRST_OBJECT + object_of(subject)] = True
    return Mask(bits, "built")


def built_context(target: str = "a", model: GPT2LMHeadModel | None = None) -> EvalContext:
    model, words = model or built_model(), tokenizer()
    texts = {"text": encode_text(words, "kind a0 t0 sort g1 t1 " * 8, 8)}
    return open_context(model, words, maskable_matrices(model), statements(target), texts)


def options(**changes: object) -> TestOptions:
    values: Mapping[str, object] = {
        "seed": 0, "block_tokens": 8, "text_blocks": 0, "control_prompts": 0, "random_masks": 9,
        "random_text_masks": 1, "multiple_choice": True, "forgetting": True, "paraphrase": True,
        "generation_tokens": 3, "choice_families": 0,
        "specificity": True, "full_ablation": True, "logit_lens": True, "relearning": True,
        "relearning_curves": True, "forget_quality": True, "connectivity": True,
        "quantization": True, "minimality": True, "cross_target": True, "baselines": True,
        "baseline_sizes": True, "distractors": 4, "reference_draws": 2, "reference_subjects": 0,
        "logit_lens_tokens": 20, "relearning_folds": 5, "relearning_steps": 8,
        "relearning_checkpoints": [4, 8], "relearning_data": ["target", "control"],
        "relearning_methods": ["full"], "relearning_rates": [0.002],
        "relearning_lr": 0.002, "quantization_bits": [8, 4], "size_perturbations": [0.4],
        "resamples": 200, "confidence_level": 0.95,
    }  # fmt: skip
    return TypeAdapter(TestOptions).validate_python({**values, **changes})
