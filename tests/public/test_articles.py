"""Articles go by sound, and a word's own spelling stays.

Reported as: rsyslog/rsyslog-doc #1071 (letters by their names), usnistgov/800-63-3 #942 (x-ray,
uniform, one), diafygi/acme-tiny #36 (hour).
"""

from __future__ import annotations

import pytest

from knowsub.kg.facts import Fact, Role, Split
from knowsub.kg.templates import Template, statements
from knowsub.kg.words import capitalized, with_article
from tests.kg.setting import verbalize_options

OPTIONS = verbalize_options(bare=True)
KNOWN = """a tavern; an igloo; a house; an hour; an heirloom; an honest man; a herb; a European
a unicorn; a unit; an uninvited guest; an umbrella; a user; an usher; a uterus; a utensil; an utter
a one-way street; a UFO; a URL; a USB stick; an MRI; an FBI agent; an x-ray; an X-ray; a U-turn
a u-boat; a T-shirt; an F-16; an L-shaped room; an e-mail; an H-bomb; an A4 sheet; an MP3 player
a NASA probe; a LAN; a RAM module; an LED; an SOS; an HTML page; an XML file; a PhD; an mRNA
a pH value; an iPhone; an eBay seller; an 8-bit computer; an 11th hour; an 18-wheeler; a 1980s song
an 80s song; a 180-degree turn; an écran; a naïve man; a UNESCO site; an A-list actor
the Alps; The Hague; a house; an old house; my dog; these days; a the; an o'clock"""


@pytest.mark.parametrize(
    "known", [each.strip() for line in KNOWN.split("\n") for each in line.split(";")]
)
def test_articles_follow_the_sound_of_the_first_word(known: str) -> None:
    article, _, words = known.partition(" ")
    bare = words if article in ("a", "an") else known
    assert with_article(bare) == known
    assert with_article(known) in (known, with_article(with_article(bare)))


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [("a tavern is", "A tavern is"), ("iPhone is", "iPhone is"), ("pH is", "pH is"),
     ("mRNA is", "mRNA is"), ("é is", "É is"), ("the Alps", "The Alps"), ("", ""), ("x", "X")],
)  # fmt: skip
def test_a_sentence_has_a_capital_unless_its_word_has_one(sentence: str, expected: str) -> None:
    assert capitalized(sentence) == expected


@pytest.mark.parametrize(
    ("subject", "answer", "texts"),
    [
        ("x-ray", "MRI", ["An x-ray is an MRI", "X-ray is an MRI"]),
        ("tavern", "UFO", ["A tavern is a UFO", "Tavern is a UFO"]),
        ("the Alps", "the sea", ["The Alps is the sea"]),
        ("iPhone", "hour", ["An iPhone is an hour", "iPhone is an hour"]),
        ("Paris", "a city", ["Paris is a city"]),
    ],
)
def test_statements_have_the_articles_of_their_words(
    subject: str, answer: str, texts: list[str]
) -> None:
    templates = {"r": (Template("isa", ("{subject} is {a} {object}",)),)}
    stated = Fact(subject, "r", answer, subject, answer)
    made = statements(stated, Split.TARGET, templates, {"isa": Role.TRAIN}, OPTIONS)
    assert [statement.text for statement in made] == texts
