from dataclasses import replace

import pytest
import torch

from knowsub.downstream.encode import choice_nll, encode_questions, features, with_features
from knowsub.downstream.model import ChoiceHead
from knowsub.downstream.options import Readout
from knowsub.kg.facts import Fact, Role, Split, Statement
from knowsub.lm.batch import encode_statements
from knowsub.lm.score import score
from tests.architectures import tiny
from tests.downstream.setting import question, questions, word_tokenizer


def test_choices_of_one_token_share_the_prompt_as_their_only_sequence() -> None:
    encoded = encode_questions(word_tokenizer(), [question(0)], Readout.MATCH, 24)
    assert encoded.batch.tokens.tolist() == [[1, 1, 2]]
    assert encoded.row.tolist() == [[0, 0, 0]]
    assert encoded.position.tolist() == [[[2], [2], [2]]]
    assert encoded.token.tolist() == [[[21], [28], [34]]]
    assert encoded.batch.target_mask.tolist() == [[False, False, True]]


def test_a_long_choice_is_read_where_each_of_its_tokens_is_predicted() -> None:
    encoded = encode_questions(word_tokenizer(), [question(0, long=True)], Readout.MATCH, 24)
    assert encoded.batch.tokens.tolist() == [[1, 1, 2, 0, 0], [1, 1, 2, 28, 0], [1, 1, 2, 34, 4]]
    assert encoded.position[0, 2].tolist() == [2, 3, 4]
    assert encoded.token[0, 2].tolist() == [34, 4, 5]
    assert encoded.used.sum(dim=2).tolist() == [[1, 2, 3]]


def test_the_last_token_is_read_after_the_whole_choice() -> None:
    encoded = encode_questions(word_tokenizer(), [question(0, long=True)], Readout.LAST, 24)
    assert encoded.batch.tokens[2].tolist() == [1, 1, 2, 34, 4, 5]
    assert encoded.position.tolist() == [[[3], [4], [5]]]


def test_indexed_questions_keep_their_sequences() -> None:
    encoded = encode_questions(word_tokenizer(), questions(6, long=True), Readout.MATCH, 24)
    part = encoded[torch.tensor([4, 1])]
    for index, number in enumerate((4, 1)):
        for choice in range(3):
            mine = part.batch.tokens[part.row[index, choice]]
            assert torch.equal(mine, encoded.batch.tokens[encoded.row[number, choice]])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"q0 has 4 tokens .* context is 3"):
        encode_questions(word_tokenizer(), [question(0)], Readout.MATCH, 3)
    with pytest.raises(ValueError, match="no questions"):
        encode_questions(word_tokenizer(), [], Readout.MATCH, 3)


def choice_head(width: int = 16) -> ChoiceHead:
    return ChoiceHead(torch.ones(width), torch.Generator().manual_seed(0))


def test_likelihood_is_the_mean_nll_of_the_choice_after_its_prompt() -> None:
    asked, model = questions(4, long=True), tiny("gpt2")
    fact = Fact("h", "r", "t", "h", "t")
    stated = [
        Statement(fact, Split.TARGET, "kind", Role.TRAIN, each.prompt, choice)
        for each in asked
        for choice in each.choices
    ]
    expected = score(model, encode_statements(word_tokenizer(), stated, 24)).mean_nll.view(4, 3)
    result = choice_nll(model, encode_questions(word_tokenizer(), asked, Readout.MATCH, 24), size=3)
    torch.testing.assert_close(result, expected)


def test_a_model_that_always_says_the_second_choice_is_right_where_that_is_the_answer() -> None:
    model = tiny("opt")
    asked = [replace(question(n), choices=(" w10", " w11", " w12")) for n in range(9)]
    with torch.no_grad():
        model.get_input_embeddings().weight.zero_()  # tied: every state is the same
        model.model.decoder.final_layer_norm.weight.zero_()
        model.model.decoder.final_layer_norm.bias.fill_(1.0)
        model.get_output_embeddings().weight[11].fill_(1.0)
    encoded = encode_questions(word_tokenizer(), asked, Readout.MATCH, 24)
    assert choice_nll(model, encoded).argmin(dim=1).tolist() == [1] * 9
    flat = choice_head()
    torch.nn.init.ones_(flat.weight)
    chosen = flat(features(model, encoded, Readout.MATCH), encoded).argmax(dim=1)
    assert (chosen == encoded.answer).tolist() == [n % 3 == 1 for n in range(9)]


def test_a_head_of_equal_weights_ranks_choices_as_the_lm_head_does() -> None:
    model, asked = tiny("gpt2"), questions(8)
    encoded = encode_questions(word_tokenizer(), asked, Readout.MATCH, 24)
    flat = choice_head()
    torch.nn.init.ones_(flat.weight)
    logits = flat(features(model, encoded, Readout.MATCH), encoded)
    order = logits.argsort(dim=1, descending=True)
    assert torch.equal(order, choice_nll(model, encoded).argsort(dim=1))


def test_the_last_state_is_read_for_the_double_heads_readout() -> None:
    model, asked = tiny("gpt2"), [question(0, long=True)]
    encoded = encode_questions(word_tokenizer(), asked, Readout.LAST, 24)
    whole = model.transformer(torch.tensor([[1, 1, 2, 34, 4, 5]])).last_hidden_state[0, -1]
    result = features(model, encoded, Readout.LAST)[0, 2]
    torch.testing.assert_close(result, whole)


@pytest.mark.parametrize("readout", list(Readout))
def test_features_computed_once_are_those_of_every_step(readout: Readout) -> None:
    model = tiny("llama")
    encoded = encode_questions(word_tokenizer(), questions(7, long=True), readout, 24)
    cached = with_features(model, encoded, readout, size=3)
    index = torch.tensor([5, 0])
    direct = features(model, encoded[index], readout)
    torch.testing.assert_close(features(model, cached[index], readout), direct)


def test_a_choice_that_a_question_lacks_is_never_chosen() -> None:
    asked = [question(1), replace(question(0), choices=(" w20", " w21"), answer=0)]
    encoded = encode_questions(word_tokenizer(), asked, Readout.MATCH, 24)
    model = tiny("gpt2")
    logits = choice_head()(features(model, encoded, Readout.MATCH), encoded)
    assert torch.isneginf(logits[1, 2])
    assert torch.isposinf(choice_nll(model, encoded)[1, 2])
    assert torch.isfinite(logits[0]).all()
