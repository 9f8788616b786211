"""`params.yaml` made wrong in many ways: it is read, or refused with one line per mistake."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

from knowsub.config import load_params
from tests.pipeline.conftest import ROOT
from tests.torture.ground import Ground, Outcome

CASES = 1000
"""Files in all."""
COMMANDS = 12
"""Files given to the real command too."""
LINES_SHOWN = 21
"""Lines of a message at most: mistakes, and how many more there are."""
VALUES = (
    *("on", "off", "yes", "no", "True", "TRUE", "true", "~", "null", "", ".inf", "-.inf", ".nan"),
    *("1e-3", "1e3", "1.", ".5", "+5", "-0", "010", "0x10", "0b1", "0o7", "1_000", "1:30", "1e400"),
    *("9" * 30, "9" * 399, "9" * 5000, "-" + "9" * 30, "1" + "0" * 308, "0." + "0" * 400 + "1"),
    *(
        "[]",
        "{}",
        "[1, 2]",
        "[[[]]]",
        "{a: 1}",
        "[on]",
        "[1e-3]",
        "[null]",
        "[{}]",
        "['']",
        "[a, a]",
    ),
    *("&a 1", "*a", "&a [*a]", "<<", "!!int '5'", "!!str 5", "!!python/object:os.system x", "!x y"),
    *("'unclosed", '"unclosed', "[unclosed", "{unclosed", "|", ">\n  folded", "|\n  kept", "'5'"),
    *("${seeds}", "'${seeds}'", "$(date)", "../x", "/etc/passwd", "a/b", "..", ".", "C:\\x", "con"),
    *(
        "naïve",
        "日本語",
        "🏛",
        "\u2028",
        "\u200b",
        "\ufeff",
        "\x85",
        "\x00",
        "\x07",
        "\ud800",
        "é\u0301",
    ),
    *(
        "2026-01-01",
        "12:30:45",
        "%x",
        "@x",
        "`x`",
        "- x",
        "? x",
        ": x",
        "x: y",
        "# x",
        "\tx",
        "1 # x",
    ),
    *("-1", "0", "1", "2", "3.5", "1e6", "1.0000000000000002", "nan", "inf", "None", "['a', 1]"),
    *("[" * 3000, "{a: " * 3000, "[" * 60 + "]" * 60, "x" * 100_000, "[" + "1," * 5000 + "]"),
)
"""Values, the traps of YAML among them."""
LINES = (
    *(
        "unknown: 1",
        "\ttabbed: 1",
        "  deeper: 1",
        "targets: [x]",
        "train:",
        "---",
        "...",
        "%YAML 1.1",
    ),
    *("<<: *a", "<<: {a: 1}", "? [1, 2]\n: 3", "[1]: 2", "null: 1", "1: 2", "true: 1", "'': 1"),
    *(
        "- item",
        "plain text",
        "}",
        "]",
        "'",
        '"',
        "&a a: 1",
        "*a : 1",
        "train.lr: 0.1",
        "\ufeffx: 1",
    ),
)
"""Lines that do not belong into the file."""
KEYED = re.compile(r"^( *)([A-Za-z_]+):( *)([^#]*?)( *#.*)?$")


def parameters(ground: Ground) -> list[Outcome]:
    """Read files that were changed at random places, in this process and by the command."""
    read = Outcome("params.yaml with a wrong value, key or line: read, or a line per mistake")
    told = Outcome("the same by the command `python -m knowsub.config --check`")
    draw = random.Random(ground.seed)
    folder = ground.folder / "params"
    folder.mkdir(parents=True, exist_ok=True)
    refused = 0
    every = max(1, ground.number(CASES) // COMMANDS)
    for number, text in enumerate(mistaken(draw, ground.number(CASES))):
        path = folder / "params.yaml"
        path.write_bytes(text)
        fault, message = refusal(path)
        refused += bool(message)
        read.check(not fault, f"{fault} by {changed(text)!r}")
        if number % every == 0:
            fault = _by_command(path, bool(message))
            told.check(not fault, f"{fault} by {changed(text)!r}")
    read.note = f"{refused} refused, {read.tried - refused} read"
    return [read, told]


def mistaken(draw: random.Random, number: int) -> list[bytes]:
    """Return files with up to three changes each."""
    lines = (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines()
    found = []
    for _ in range(number):
        own = list(lines)
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            change(own, draw)
        content = "\n".join(own).encode("utf-8", "surrogatepass") + b"\n"
        if draw.random() < 0.1:
            content = _bytes_changed(content, draw)
        found.append(content)
    return found


def change(lines: list[str], draw: random.Random) -> None:
    """Change one line: its value, its key, its indentation, or whether it is there."""
    place = draw.randrange(len(lines))
    kind = draw.choice(
        ("value", "value", "value", "value", "key", "drop", "double", "line", "move")
    )
    parts = KEYED.match(lines[place])
    if kind == "value" and parts:
        value = draw.choice(VALUES)
        lines[place] = f"{parts[1]}{parts[2]}: {value}{parts[5] or ''}"
    elif kind == "key" and parts:
        key = draw.choice((parts[2][:-1], parts[2].upper(), f"'{parts[2]}'", "é", parts[2] + " "))
        lines[place] = f"{parts[1]}{key}: {parts[4]}"
    elif kind == "drop":
        del lines[place]
    elif kind == "double":
        lines.insert(place, lines[place])
    elif kind == "line":
        lines.insert(place, draw.choice(LINES))
    else:
        lines[place] = draw.choice(("", " ", "\t", "   ")) + lines[place].lstrip()


def _bytes_changed(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content[: draw.randrange(len(content))] if draw.random() < 0.3 else content)
    for _ in range(draw.randrange(4) if changed else 0):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def refusal(path: Path) -> tuple[str, str]:
    """Read a file; return what is wrong with the way it went, and the message of a refusal."""
    try:
        load_params(path=path)
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
        lines = message.splitlines()
        if lines != message.split("\n") or len(lines) > LINES_SHOWN or max(map(len, lines)) > 1000:
            return f"a message of {len(message)} characters: {message[:200]!r}", message
        placed = all(line.startswith(("params.yaml", "... and ")) for line in lines)
        return ("" if placed else f"no place in {message!r}"), message
    except Exception as error:  # noqa: BLE001 - the case is that there is none
        return f"{type(error).__name__}: {error}", ""
    return "", ""


def changed(text: bytes) -> str:
    """Return the lines that are not those of the shipped file."""
    shipped = set((ROOT / "params.yaml").read_bytes().splitlines())
    new = [line for line in text.splitlines() if line not in shipped]
    return b" | ".join(new)[:120].decode("utf-8", "replace") or "lines dropped or doubled"


def _by_command(path: Path, refused: bool) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "knowsub.config", "--check"],
        cwd=path.parent,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        check=False,
    )
    lines = done.stderr.decode("utf-8", "replace").splitlines()
    if done.returncode == 0:
        return "the command reads what is refused" if refused else ""
    placed = all(line.startswith(("params.yaml", "... and ")) for line in lines)
    refused_well = done.returncode == 1 and placed and 0 < len(lines) <= LINES_SHOWN
    return "" if refused_well else f"status {done.returncode}: {lines}"
