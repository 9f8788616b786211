import pytest
import torch

from knowsub.downstream.encode import encode_questions
from knowsub.downstream.options import Readout
from tests.downstream.setting import question, questions, words


def test_choices_of_one_token_share_the_prompt_as_their_only_sequence() -> None:
    encoded = encode_questions(words(), [question(0)], Readout.MATCH, 24)
    assert encoded.batch.tokens.tolist() == [[1, 1, 2]]
    assert encoded.row.tolist() == [[0, 0, 0]]
    assert encoded.position.tolist() == [[[2], [2], [2]]]
    assert encoded.token.tolist() == [[[21], [28], [34]]]
    assert encoded.batch.target_mask.tolist() == [[False, False, True]]


def test_a_long_choice_is_read_where_each_of_its_tokens_is_predicted() -> None:
    encoded = encode_questions(words(), [question(0, long=True)], Readout.MATCH, 24)
    assert encoded.batch.tokens.tolist() == [[1, 1, 2, 0, 0], [1, 1, 2, 28, 0], [1, 1, 2, 34, 4]]
    assert encoded.position[0, 2].tolist() == [2, 3, 4]
    assert encoded.token[0, 2].tolist() == [34, 4, 5]
    assert encoded.used.sum(dim=2).tolist() == [[1, 2, 3]]


def test_the_last_token_is_read_after_the_whole_choice() -> None:
    encoded = encode_questions(words(), [question(0, long=True)], Readout.LAST, 24)
    assert encoded.batch.tokens[2].tolist() == [1, 1, 2, 34, 4, 5]
    assert encoded.position.tolist() == [[[3], [4], [5]]]


def test_chosen_questions_keep_their_own_sequences() -> None:
    encoded = encode_questions(words(), questions(6, long=True), Readout.MATCH, 24)
    part = encoded[torch.tensor([4, 1])]
    for own, number in enumerate((4, 1)):
        for choice in range(3):
            mine = part.batch.tokens[part.row[own, choice]]
            assert torch.equal(mine, encoded.batch.tokens[encoded.row[number, choice]])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"q0 has 4 tokens .* context is 3"):
        encode_questions(words(), [question(0)], Readout.MATCH, 3)
    with pytest.raises(ValueError, match="no questions"):
        encode_questions(words(), [], Readout.MATCH, 3)
