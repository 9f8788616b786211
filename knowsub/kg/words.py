"""Words as they are compared, as they are read from names, and with their articles in sentences.

Words are compared in one normal form; what a prompt holds is always the user's own spelling.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\u02b9\u2032\uff07`\u00b4", "'"))
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufe00-\ufe0f\ufeff]")
"""Soft hyphens, zero-width characters, marks of direction, variation selectors."""


@lru_cache(maxsize=2**18)
def comparable(words: str) -> str:
    """Return words in the form in which they are compared: two spellings of one text are equal.

    Casefolded, NFKC, with plain apostrophes and single blanks, without invisible characters: `Café`
    typed as one character or two, `baker’s` and `baker's` are the same.

    Args:
        words: Words as the user spells them.

    Returns:
        The normal form, for comparison alone.

    Source:
        Unicode 16.0, section 3.13 (caseless matching) and annex 15 (normal forms).
    """
    plain = _INVISIBLE.sub("", words.translate(_APOSTROPHES))
    folded = unicodedata.normalize("NFKC", plain).casefold()
    # casefolding can leave a form that is not normal, normalization one that is not folded
    return " ".join(unicodedata.normalize("NFKC", folded).translate(_APOSTROPHES).split())


def words_of_name(name: str) -> str:
    """Return the words that a name of a knowledge graph stands for.

    Args:
        name: A synset (`living_thing.n.01`), a concept (`/c/en/living_thing/n`), words joined by
            underscores (`living_thing`), or the words themselves.

    Returns:
        The words with blanks: `living thing`. Underscores at an end stay (`__init__`).
    """
    if concept := re.fullmatch(r"/c/[a-z-]+/(?P<term>[^/]+)(/.*)?", name):
        name = concept["term"]
    elif synset := re.fullmatch(r"(?P<lemma>.+)\.[a-z]\.\d+", name):
        name = synset["lemma"]
    return re.sub(r"(?<=[^\W_])_(?=[^\W_])", " ", name)


_DETERMINERS = (
    "the", "a", "an", "this", "that", "these", "those", "my", "your", "his", "her", "its", "our",
    "their", "some", "any", "each", "every",
)  # fmt: skip
_AN = ("heir", "honest", "honor", "honour", "hour")
_A = (
    "eu", "ewe", "once", "one", "ouija", "ubiq", "ufo", "uk", "unanim", "unes", "uni", "ura",
    "ure", "uri", "usa", "use", "usu", "uten", "uter", "uti", "uto", "uv",
)  # fmt: skip
_NOT_A = ("onei", "onero", "unid", "unim", "unin")
_AN_LETTERS = frozenset("aefhilmnorsx")
"""Letters whose names begin with a vowel."""
_SPOKEN = (
    "FIFA", "HEPA", "LAN", "LASER", "LEGO", "LIDAR", "MERS", "MIDI", "NAFTA", "NASA", "NATO",
    "NICU", "NIMBY", "RADAR", "RAID", "RAM", "ROM", "SARS", "SCUBA", "SIM", "SONAR", "SWAT",
)  # fmt: skip
"""Capitals that are read as a word."""


def article(words: str) -> str:
    """Return the article before words: `a`, `an`, or nothing where they have a determiner.

    It goes by the sound of the first word as far as its spelling shows it; of capitals (`MRI`),
    letters before a hyphen (`x-ray`) and words such as `mRNA`, by the name of the first letter.

    Args:
        words: Words that come after the article, such as `old house`.

    Returns:
        `a`, `an`, or empty text: `the Alps` takes none.
    """
    parts = re.split(r"[\s\-\u2010\u2011/]+", words.strip("\"'\u201c\u2018( "), maxsplit=1)
    first = re.sub(r"[\W_]+\Z", "", parts[0]) or parts[0]
    if words.split()[0].lower() in _DETERMINERS and len(words.split()) > 1 and first != "A":
        return ""
    if number := re.match(r"\d+", first):
        return "an" if number[0][0] == "8" or number[0] in ("11", "18") else "a"
    if _is_spelt(first):
        return "an" if first[:1].lower() in _AN_LETTERS else "a"
    plain = unicodedata.normalize("NFD", first.casefold())
    if plain.startswith(_AN):
        return "an"
    if plain.startswith(_A) and not plain.startswith(_NOT_A):
        return "a"
    return "an" if plain[:1] in tuple("aeiou") else "a"


def _is_spelt(word: str) -> bool:
    """Return whether a word begins with the name of a letter: `x` of `x-ray`, `MRI`, `iPhone`."""
    if len(word) == 1:
        return word.isalpha() and word.lower() != "a"
    capitals = word.removesuffix("s").isupper() and word not in _SPOKEN
    # Capitals that read like a word, and headlines, are longer.
    return (capitals and len(word) <= 5) or (word[0].islower() and word[1].isupper())


def with_article(words: str) -> str:
    """Return words with their article: `a tavern`, `the Alps`."""
    return f"{article(words)} {words}".lstrip()


def capitalized(sentence: str) -> str:
    """Return a sentence with a capital at its start; `iPhone` and `pH` keep their spelling."""
    first = sentence.split(maxsplit=1)[0] if sentence.strip() else ""
    return sentence if first[1:2].isupper() else sentence[:1].upper() + sentence[1:]
