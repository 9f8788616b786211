from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from knowsub.lm.batch import Batch, encode_statements, encode_text, opening_tokens
from tests.lm.setting import PAIRS, TEXT, statement, statements, toy_tokenizer


def prefixing_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer as Llama's: a space before every text, a token that begins it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    texts = [each.text for each in statements()] + list(PAIRS.values()) * 9
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def test_the_target_positions_are_those_that_predict_the_object() -> None:
    tokenizer = toy_tokenizer()
    batch = encode_statements(tokenizer, statements(), 24)
    for row, expected in enumerate(statements()):
        answer = batch.labels[row][batch.target_mask[row]].tolist()
        prompt = batch.tokens[row][: int(batch.target_mask[row].nonzero()[0]) + 1].tolist()
        assert tokenizer.decode(answer) == expected.object
        assert tokenizer.decode(prompt) == expected.prompt


def test_the_last_target_position_comes_right_before_the_last_token() -> None:
    batch = encode_statements(toy_tokenizer(), [statement("A robin is a", " bird")], 24)
    assert batch.target_mask[0].nonzero().max() == batch.tokens.shape[1] - 2


def test_padding_follows_every_target() -> None:
    batch = encode_statements(toy_tokenizer(), statements(), 24)
    for row in range(len(batch)):
        assert not batch.tokens[row, int(batch.lengths[row]) :].any()


def test_trimming_removes_only_padding() -> None:
    batch = encode_statements(toy_tokenizer(), statements(), 24)
    short = batch[batch.lengths == batch.lengths.min()].trimmed()
    assert short.tokens.shape[1] == int(batch.lengths.min())
    assert int(short.target_mask.sum()) == int(
        batch[batch.lengths == batch.lengths.min()].target_mask.sum()
    )


def test_a_space_that_the_tokenizer_puts_first_is_not_part_of_the_object() -> None:
    tokenizer = prefixing_tokenizer()
    batch = encode_statements(tokenizer, statements(), 24)
    for row, expected in enumerate(statements()):
        answer = tokenizer.convert_ids_to_tokens(batch.labels[row][batch.target_mask[row]].tolist())
        assert "".join(answer) == expected.object.replace(" ", "▁")


def test_a_beginning_token_stays_and_an_end_token_goes() -> None:
    batch = encode_statements(prefixing_tokenizer(), statements(1), 24)
    assert (batch.tokens[:, 0] == 1).all()
    assert not (batch.tokens == 2).any()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no statements"),
        ([statement("A robin is a", "")], "has no token"),
        ([statement("", " bird")], "has no token"),
        ([statement("A robin is a " * 9, " bird")], "context is 24"),
    ],
)
def test_what_cannot_be_encoded_is_refused(rows: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_statements(toy_tokenizer(), rows, 24)


def test_targets_of_text_blocks_are_all_positions_but_the_last() -> None:
    tokenizer = toy_tokenizer()
    batch = encode_text(tokenizer, TEXT, 10)
    ids = tokenizer(TEXT)["input_ids"]
    assert batch.tokens.flatten().tolist() == ids[: len(ids) // 10 * 10]
    assert batch.target_mask[:, :-1].all()
    assert not batch.target_mask[:, -1].any()


def test_text_blocks_begin_as_statements_do_with_a_token_that_is_not_predicted() -> None:
    tokenizer = prefixing_tokenizer()
    batch = encode_text(tokenizer, TEXT, 10)
    statement_tokens = encode_statements(tokenizer, statements(1), 24).tokens
    assert (batch.tokens[:, 0] == statement_tokens[0, 0]).all()
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert batch.tokens[:, 1:].flatten().tolist() == ids[: len(ids) // 9 * 9]
    assert batch.labels[batch.target_mask].tolist() == ids[: len(ids) // 9 * 9]


def test_a_tokenizer_that_puts_nothing_before_statements_puts_nothing_before_text() -> None:
    assert opening_tokens(prefixing_tokenizer()) == [1]
    assert opening_tokens(toy_tokenizer()) == []
    assert toy_tokenizer().bos_token_id is not None


def test_a_block_without_room_for_text_is_refused() -> None:
    with pytest.raises(ValueError, match="a block of 1 tokens has no room for text"):
        encode_text(prefixing_tokenizer(), TEXT, 1)


def test_a_text_shorter_than_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="fewer than one block"):
        encode_text(toy_tokenizer(), "A robin.", 10)


def test_choosing_sequences_keeps_their_cached_states() -> None:
    batch = Batch(torch.arange(6).view(3, 2), torch.ones(3, 2, dtype=torch.bool))
    chosen = batch.with_lower_states(torch.randn(3, 2, 4))[slice(1, 3)]
    assert chosen.lower_states is not None
    assert chosen.lower_states.shape == (2, 2, 4)
    assert len(chosen.to("cpu")) == 2


def test_trimming_keeps_every_target_and_its_label() -> None:
    tokens = torch.randint(1, 50, (3, 24), generator=torch.Generator().manual_seed(0))
    target_mask = torch.zeros_like(tokens, dtype=torch.bool)
    for row, last in enumerate([3, 1, 4]):
        target_mask[row, last] = True
    part = Batch(tokens, target_mask).trimmed()
    assert part.tokens.shape == (3, 6)
    assert part.labels[part.target_mask].tolist() == [tokens[0, 4], tokens[1, 2], tokens[2, 5]]


def test_unshifted_targets_are_the_objects_own_positions() -> None:
    batch = encode_statements(toy_tokenizer(), [statement("A robin is a", " bird")], 24)
    later = batch.unshifted()
    assert torch.equal(later.tokens, batch.tokens)
    assert torch.equal(later.tokens[later.target_mask], batch.labels[batch.target_mask])
