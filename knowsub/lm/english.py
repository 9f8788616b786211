"""English prose that every Python brings along: its topics of help and its docstrings."""

from __future__ import annotations

import ast
import re
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from pydoc_data.topics import topics

MODULES = """
argparse bdb calendar cmd configparser contextlib csv difflib doctest email/message enum fractions
ftplib functools heapq http/cookiejar imaplib ipaddress json/__init__ logging/__init__ mailbox
optparse pickle pydoc random shutil smtplib socketserver statistics string subprocess tempfile
textwrap threading turtle typing unittest/case urllib/request weakref
"""
"""Modules whose docstrings are the text `embedded-other`, read in this order."""
PLAIN = str.maketrans("‘’“”–—\N{NO-BREAK SPACE}", "''\"\"-- ")
"""Typographic characters and what stands for them."""


def topic_prose() -> list[str]:
    """Return the paragraphs of prose in `pydoc_data.topics`, each once, topics in order."""
    return _prose(topics[name] for name in sorted(topics))


def docstring_prose() -> list[str]:
    """Return the paragraphs of prose in docstrings of the standard library, each once."""
    return _prose(_docstrings())


def _prose(documents: Iterable[str]) -> list[str]:
    """Return the English paragraphs, unwrapped, each once; code, grammar and tables left out."""
    pieces = dict.fromkeys(
        _unwrap(paragraph)
        for document in documents
        for paragraph in re.split(r"\n\s*\n", document.translate(PLAIN))
    )
    return [piece for piece in pieces if _is_prose(piece)]


def _unwrap(paragraph: str) -> str:
    lines = (line.strip() for line in paragraph.splitlines())
    kept = (line for line in lines if not re.fullmatch(r"[=*\-~^\"'+|#. ]*", line))
    return re.sub(r"^(\*|-|\d+\.|\[\d+\]) +|(?<= ) +", "", " ".join(kept))


def _is_prose(piece: str) -> bool:
    """Say whether a paragraph is a sentence or more: words by far, a full stop, no prompt."""
    words = re.findall(r"(?<![\w.\"_])[A-Za-z][a-z]+(?![\w(_=])", piece)
    letters = sum(char.isalpha() or char == " " for char in piece)
    return (
        len(words) >= 6
        and piece[-1] in ".:;!?)"
        and not re.search(r"::=|>>>|\.\. \w+::| = .* = ", piece)
        and letters > 0.81 * len(piece)
    )


def _docstrings() -> Iterator[str]:
    library = Path(sysconfig.get_path("stdlib"))
    for name in MODULES.split():
        file = library / f"{name}.py"
        if not file.is_file():
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield ast.get_docstring(node) or ""
