"""Every block of text begins with the BOS token, not the first of them alone.

Reported as: EleutherAI/lm-evaluation-harness #1455 (Gemma without its BOS token) and #2382 (windows
of running text after the first one had none).
"""

from __future__ import annotations

from knowsub.lm.batch import encode_statements, encode_text
from tests.lm.setting import TEXT, statements
from tests.lm.test_batch import prefixing_tokenizer


def test_every_block_begins_with_the_token_that_begins_a_statement() -> None:
    tokenizer = prefixing_tokenizer()
    blocks = encode_text(tokenizer, TEXT, 10)
    assert len(blocks) > 1
    first = encode_statements(tokenizer, statements(1), 24).tokens[0, 0]
    assert tokenizer.bos_token_id == first
    assert (blocks.tokens[:, 0] == first).all()
    assert not (blocks.labels[blocks.target_mask] == first).any()
