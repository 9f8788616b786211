"""The embedded model's tokenizer: byte-level BPE in which every object word is one token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from knowsub.kg.facts import Statement

END = "<|endoftext|>"
"""The only special token: end of text, also used as padding; its id is 0."""


def train_tokenizer(
    statements: Sequence[Statement],
    text: str,
    vocabulary: int,
    context: int,
    object_weight: int = 300,
) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer trained on the statements and the text.

    Objects count `object_weight` times, so that each of their words becomes one token as long as
    the vocabulary has room: then a fact is one prediction.

    Args:
        statements: The statements that the model will be trained on.
        text: The running text that it will be trained on, paragraphs separated by blank lines.
        vocabulary: Number of tokens wanted, the end-of-text token and 256 bytes included; fewer
            where the words give no more merges.
        context: The model's context, written into the tokenizer's files [tokens].
        object_weight: Times that each distinct object is counted.

    Returns:
        The tokenizer; equal inputs give equal files, byte for byte.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_documents(statements, text, object_weight), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def _documents(statements: Sequence[Statement], text: str, object_weight: int) -> Iterator[str]:
    yield from text.split("\n\n")
    yield from (statement.text for statement in statements)
    yield from (words * object_weight for words in sorted({each.object for each in statements}))
