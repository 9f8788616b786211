"""What stands between the blocks of a model and its logits is computed, wherever they are taken.

Reported as: huggingface/transformers #17225 and #17389 (the projections of OPT-350m),
apple/ml-cross-entropy #48 (the soft cap of Gemma 2 left out of a loss), keras-team/keras-hub #1712
(and of a score),
TransformerLensOrg/TransformerLens #828 (states times head are not the logits of Gemma 2),
unslothai/unsloth #11277 and vllm-project/vllm #52158 (the logit scales of Cohere and Granite),
huggingface/transformers #35625 (the bias of Phi's head).
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from knowsub import architectures
from knowsub.lm.batch import Batch
from knowsub.lm.head import LMHead, lm_head
from knowsub.lm.load import load_model
from knowsub.lm.score import score
from tests.architectures import ALIKE, CONFIGS, VOCAB, tiny
from tests.lm.setting import small_tokenizer

TOKENS = torch.randint(1, VOCAB, (2, 7), generator=torch.Generator().manual_seed(0))


def model_of(kind: str, **values: Any) -> PreTrainedModel:
    config = copy.deepcopy((CONFIGS | ALIKE)[kind])
    for name, value in values.items():
        setattr(config, name, value)
    return tiny(config)


@pytest.mark.parametrize(
    ("kind", "values"),
    [("opt", {"word_embed_proj_dim": 8, "do_layer_norm_before": False}),
     ("gemma2", {"final_logit_softcapping": 2.0}), ("cohere", {"logit_scale": 0.0625}),
     ("granite", {"logits_scaling": 16.0}), ("phi", {})],
)  # fmt: skip
def test_a_score_is_that_of_the_models_own_logits(kind: str, values: dict[str, Any]) -> None:
    model, mask = model_of(kind, **values), torch.ones_like(TOKENS, dtype=torch.bool)
    mask[:, -1] = False
    log_p = model(TOKENS).logits[:, :-1].log_softmax(-1)
    expected = -log_p.gather(2, TOKENS[:, 1:, None]).sum(dim=(1, 2))
    torch.testing.assert_close(score(model, Batch(TOKENS, mask)).nll, expected)


def test_a_capped_and_scaled_head_by_hand() -> None:
    linear = torch.nn.Linear(1, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0], [-2.0]]))
        linear.bias.copy_(torch.tensor([0.5, 0.0]))
    head, state = LMHead(linear, scale=2.0, cap=3.0), torch.tensor([[1.5]], requires_grad=True)
    logits = head(state)
    expected = 3 * torch.tanh(torch.tensor([[4.0, -6.0]]) / 3)
    torch.testing.assert_close(logits, expected)
    slope = head.chain_(torch.ones(1, 2), logits.detach())
    (by_autograd,) = torch.autograd.grad(logits.sum(), state)
    torch.testing.assert_close(slope @ linear.weight, by_autograd)


@pytest.mark.parametrize(
    ("kind", "forgotten"),
    [("gemma2", {"logit_cap": None}), ("granite", {"logit_divisor": None}),
     ("granite", {"input_scale": None}), ("cohere", {"logit_scale": None}),
     ("bloom", {"before": ()}), ("gpt2", {"positions": None})],
)  # fmt: skip
def test_a_row_that_forgets_a_part_of_the_model_is_refused_when_it_is_opened(
    kind: str, forgotten: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny(kind).save_pretrained(tmp_path)
    small_tokenizer().save_pretrained(tmp_path)
    load_model(tmp_path)
    row = replace(architectures.ARCHITECTURES[kind], **forgotten)
    monkeypatch.setitem(architectures.ARCHITECTURES, kind, row)
    with pytest.raises(
        ValueError, match=f"its row '{kind}' of ARCHITECTURES does not fit: cut"
    ) as e:
        load_model(tmp_path)
    assert "\n" not in str(e.value)


def test_a_head_that_is_not_linear_is_refused() -> None:
    model = tiny("llama")
    model.lm_head = torch.nn.Identity()
    with pytest.raises(ValueError, match="model type 'llama': Identity as LM head"):
        lm_head(model)
