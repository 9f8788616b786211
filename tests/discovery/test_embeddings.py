from __future__ import annotations

import pytest
import torch
from transformers import GPT2LMHeadModel

from knowsub.architectures import maskable_matrices
from knowsub.discovery.distinction import close_rows, facts_with, own_tokens, prompt_tokens
from knowsub.kg.facts import Fact, Role, Split, Statement
from knowsub.lm.batch import Batch
from knowsub.masks.ablation import EMBEDDING, input_embedding
from knowsub.masks.gates import Gates, UniformNoise
from knowsub.masks.mask import unpack_bits
from knowsub.masks.options import Granularity
from tests.discovery.setting import search, validation

TARGET = [[1, 5, 6, 2, 9, 0], [1, 7, 2, 9, 8, 0]]
"""Beginning, subject, template word 2, object; the first one's subject has two tokens."""
TARGET_OBJECTS = [[0, 0, 0, 1, 0, 0], [0, 0, 1, 1, 0, 0]]
"""Where the next token is the object's."""
CONTROL = [[1, 6, 2, 7, 0, 0]]
"""It has token 6 in its prompt and token 7 as its object, which is never read."""
CONTROL_OBJECTS = [[0, 0, 1, 0, 0, 0]]


def batch(tokens: list[list[int]], objects: list[list[int]]) -> Batch:
    return Batch(torch.tensor(tokens), torch.tensor(objects, dtype=torch.bool))


def with_gates(
    model: GPT2LMHeadModel, granularity: Granularity = Granularity.WEIGHT
) -> tuple[Gates, torch.Tensor | None]:
    model.requires_grad_(False)
    matrices = (input_embedding(model), *maskable_matrices(model))
    gates = Gates(model, matrices, granularity, init_prob=0.5)
    target, control = batch(TARGET, TARGET_OBJECTS), batch(CONTROL, CONTROL_OBJECTS)
    return gates, close_rows(gates, target, own_tokens(target, [control]))


def test_a_prompt_ends_where_the_object_is_predicted() -> None:
    assert prompt_tokens(batch(TARGET, TARGET_OBJECTS)).tolist() == [1, 2, 5, 6, 7]


def test_the_targets_own_tokens_are_in_no_preserved_prompt() -> None:
    target, control = batch(TARGET, TARGET_OBJECTS), batch(CONTROL, CONTROL_OBJECTS)
    assert own_tokens(target, [control]).tolist() == [5, 7]
    both = batch([[1, 7, 2, 9, 0, 0]], CONTROL_OBJECTS)
    assert own_tokens(target, [control, both]).tolist() == [5]


def test_facts_are_found_by_the_tokens_of_their_prompts() -> None:
    facts = [Fact(name, "hypernym", "thing", name, "thing") for name in ("first", "second")]
    said = [Statement(f, Split.TARGET, "kind", Role.TRAIN, f.subject, " thing") for f in facts]
    target = batch(TARGET, TARGET_OBJECTS)
    assert facts_with(said, target, torch.tensor([5, 8])) == {facts[0]}  # 8 is in no prompt
    assert facts_with(said, target, torch.tensor([2])) == set(facts)
    assert facts_with(said, target, torch.zeros(0).long()) == set()


def test_embeddings_of_tokens_that_no_target_has_stay_closed(
    tiny_gpt2: GPT2LMHeadModel,
) -> None:
    gates, own = with_gates(tiny_gpt2)
    assert own is not None
    assert own.tolist() == [*range(5 * 16, 6 * 16), *range(7 * 16, 8 * 16)]
    sample = gates.sample(UniformNoise(0), scale=0.5)
    rows, slope = (gates.slices[0].take(vector) for vector in (sample.value, sample.ste_grad))
    searched = [0, 1, 2, 5, 6, 7, 8, 9]  # 0 is the padding
    assert rows[searched].mean() == pytest.approx(0.5, abs=0.15)
    closed = [row for row in range(len(rows)) if row not in searched]
    assert rows[closed].max() == 0
    assert slope[closed].abs().max() == 0
    grad = torch.zeros_like(gates.logits)
    gates.add_sparsity_grad(grad, 1.0)
    assert bool(grad.isfinite().all())
    assert not gates.to_mask(gates.hard_mask(), "model", {}).bits[EMBEDDING][closed].any()


def test_a_dimension_of_the_embedding_is_searched_as_a_whole(tiny_gpt2: GPT2LMHeadModel) -> None:
    gates, own = with_gates(tiny_gpt2, Granularity.OUTPUT)
    assert own is None
    assert bool(gates.logits.isfinite().all())


def test_their_rows_are_removed_whole_once_the_noise_falls_whatever_else_is_trimmed() -> None:
    trainer = search(embeddings=True, steps=5, noise_decay_start=0.5)
    target, control = trainer.data.target, trainer.data.control.batch
    tokens = own_tokens(target, [control])
    own = tokens.tolist()
    assert own
    trainer.added = close_rows(trainer.gates, target, tokens)
    trainer.options.max_density = len(own) * 16 / len(trainer.gates.logits)
    finite = []
    for _ in range(5):
        trainer.train_step()
        finite.append(bool(trainer.gates.logits[trainer.added].isfinite().all()))
    assert finite == [True, True, False, False, False]
    trainer.validate_candidate(lambda: validation(trainer))
    bits = unpack_bits(trainer.best_bits, len(trainer.gates.logits))
    removed = trainer.gates.to_mask(bits, "model", {}).bits[EMBEDDING]
    assert removed.any(dim=1).nonzero().flatten().tolist() == own
    assert bool(removed[own].all())
    assert bool(trainer.gates.logits.nan_to_num(posinf=0.0, neginf=0.0).isfinite().all())
