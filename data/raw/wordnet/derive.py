"""Derive `nouns.tsv.gz` from the noun files of the WordNet 3.0 database.

Facts only: which synsets exist, their lemmas in order, how often each sense was tagged, and their
hypernyms. No glosses, no examples. The output is the same byte for byte on every run and machine.

Rerun: `python data/raw/wordnet/derive.py /usr/share/wordnet` (Debian: `apt install wordnet-base`).
"""

from __future__ import annotations

import gzip
import io
import sys
from collections.abc import Iterator
from pathlib import Path

HEADER = "synset\tlemmas\tcounts\thypernyms\tinstance_hypernyms"
OUTPUT = Path(__file__).with_name("nouns.tsv.gz")


def sense_numbers(folder: Path) -> dict[tuple[str, str], int]:
    """Return the sense number of each (lower-case lemma, offset) by the order in `index.noun`."""
    senses: dict[tuple[str, str], int] = {}
    for line in _records(folder / "index.noun"):
        fields = line.split()
        offsets = fields[-int(fields[2]) :]
        for number, offset in enumerate(offsets, start=1):
            senses[fields[0], offset] = number
    return senses


def tag_counts(folder: Path) -> dict[str, int]:
    """Return how often each noun sense key was tagged, from `cntlist.rev`."""
    counts = {}
    for line in (folder / "cntlist.rev").read_text(encoding="ascii").splitlines():
        key, _, count = line.split()
        if "%1:" in key:
            counts[key] = int(count)
    return counts


def rows(folder: Path) -> Iterator[str]:
    """Yield one line per synset, in the order of the database file."""
    senses, counts = sense_numbers(folder), tag_counts(folder)
    records = [_Record(line, senses, counts) for line in _records(folder / "data.noun")]
    names = {record.offset: record.name for record in records}
    for record in records:
        yield "\t".join(
            [
                record.name,
                " ".join(record.lemmas),
                " ".join(map(str, record.counts)),
                " ".join(names[offset] for offset in record.pointers["@"]),
                " ".join(names[offset] for offset in record.pointers["@i"]),
            ]
        )


def derive(folder: Path) -> bytes:
    """Return the gzip file's bytes; no time stamp and no file name are stored in it.

    Args:
        folder: Folder with `data.noun`, `index.noun` and `cntlist.rev` of WordNet 3.0.

    Returns:
        The compressed table, UTF-8, one header line and one line per synset.

    Raises:
        FileNotFoundError: If one of the three files is not there.
    """
    text = "\n".join([HEADER, *rows(folder), ""])
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=9, mtime=0) as file:
        file.write(text.encode("utf-8"))
    return buffer.getvalue()


class _Record:
    """One line of `data.noun`; its layout is documented in wndb(5WN)."""

    def __init__(
        self, line: str, senses: dict[tuple[str, str], int], counts: dict[str, int]
    ) -> None:
        fields = line.split(" | ", 1)[0].split()
        self.offset, file_number = fields[0], fields[1]
        words = int(fields[3], 16)
        self.lemmas = fields[4 : 4 + 2 * words : 2]
        ids = [int(number, 16) for number in fields[5 : 5 + 2 * words : 2]]
        keys = [
            f"{lemma.lower()}%1:{file_number}:{number:02d}::"
            for lemma, number in zip(self.lemmas, ids, strict=True)
        ]
        self.counts = [counts.get(key, 0) for key in keys]
        first = self.lemmas[0].lower()
        self.name = f"{first}.n.{senses[first, self.offset]:02d}"
        self.pointers: dict[str, list[str]] = {"@": [], "@i": []}
        start = 5 + 2 * words
        for symbol, offset, part, _ in zip(*[iter(fields[start:])] * 4, strict=True):
            if symbol in self.pointers and part == "n":
                self.pointers[symbol].append(offset)


def _records(path: Path) -> list[str]:
    """Return the lines of a database file without its licence, which two blanks begin."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("  ")]


if __name__ == "__main__":
    OUTPUT.write_bytes(derive(Path(sys.argv[1] if len(sys.argv) > 1 else "/usr/share/wordnet")))
