"""Files cut off, changed or left half written: each is refused or passed over, never used."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from knowsub.artifacts import read_checksummed, remove_stale_partials, write_checksummed
from knowsub.discovery.checkpoint import Checkpoints
from knowsub.kg.facts import read_facts, read_kg, read_statements
from knowsub.kg.readers import read_table
from knowsub.masks.mask import Mask, load_mask
from tests.torture.ground import Ground, Outcome

MASKS, CHECKPOINTS, FACTS = 2000, 300, 1500
"""Damaged files in all, of each kind."""
SIGNS = ("\t", "\n", '"', "{", "}", "[", "]", ",", ":", "\\", "\0", "\ufeff", "\u2028", "é", "🏛")
SIGNS += ("null", "1e999", "NaN", "-Infinity", "9" * 5000, "[" * 5000, '"\\ud800"', "../../x", " ")
"""What is put into fact files."""
SPLIT = (
    '{"subject": "a", "relation": "r", "object": "b", "subject_words": "a", "object_words": "b"}'
)
STATEMENT = (
    f'{{"fact": {SPLIT}, "split": "target", "family": "kind", "role": "train",'
    ' "prompt": "A a is a", "object": " b", "nll": 1.5}'
)
READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "table.tsv": ("subject\trelation\tobject\nlark\tIsA\tbird\nelm\tIsA\ttree\n", read_table),
    "table.jsonl": ('{"subject": "lark", "relation": "IsA", "object": "bird"}\n' * 2, read_table),
    "array.jsonl": ('[{"subject": "lark",\n "relation": "IsA", "object": "bird"}]\n', read_table),
    "facts.jsonl": (f"{SPLIT}\n{SPLIT}\n", read_facts),
    "kg.jsonl": (f'{SPLIT[:-1]}, "split": "target"}}\n', read_kg),
    "statements.jsonl": (f"{STATEMENT}\n{STATEMENT}\n", read_statements),
}
"""Name of a file -> its content, and what reads it."""


def damage(ground: Ground) -> list[Outcome]:
    """Damage masks, checkpoints, half-written files and fact files."""
    folder = ground.folder / "damage"
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(ground.seed)
    return [
        masks(folder, draw, ground.number(MASKS)),
        checkpoints(folder, draw, ground.number(CHECKPOINTS)),
        killed_writes(folder, draw, ground.number(20)),
        facts(folder, draw, ground.number(FACTS)),
    ]


def damaged(whole: bytes, draw: random.Random, number: int) -> Iterator[bytes]:
    """Yield a file cut off, or with some bits turned, never as it was."""
    while number:
        content = bytearray(whole)
        if draw.random() < 0.4:
            del content[draw.randrange(len(content)) :]
        else:
            for _ in range(draw.choice((1, 1, 1, 8, 64))):
                content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        if content != whole:
            number -= 1
            yield bytes(content)


def masks(folder: Path, draw: random.Random, number: int) -> Outcome:
    """Load damaged masks."""
    import torch

    outcome = Outcome("A mask file cut off or with bits turned: refused in one line, never applied")
    path = folder / "mask.safetensors"
    noise = torch.Generator().manual_seed(0)
    bits = {name: torch.rand((48, 64), generator=noise) < 0.05 for name in "abcd"}
    from knowsub.masks.mask import save_mask

    save_mask(Mask(bits, "model", {"target": "x"}), path)
    for content in damaged(path.read_bytes(), draw, number):
        path.write_bytes(content)
        outcome.check(*refused(load_mask, path))
    return outcome


def checkpoints(folder: Path, draw: random.Random, number: int) -> Outcome:
    """Damage the newest checkpoint: the search goes on from the one before it."""
    import torch

    outcome = Outcome(
        "The newest checkpoint cut off or with bits turned: the one before it is used"
    )
    store = Checkpoints(folder / "store", "mine")
    for step in (1, 2):
        store.save(step, {"logits": torch.full((400,), float(step))}, {"best": None})
    newest = sorted((folder / "store").glob("*.safetensors"))[-1]
    for content in damaged(newest.read_bytes(), draw, number):
        newest.write_bytes(content)
        found = store.load()
        well = found is not None and found[0] == 1 and bool((found[1]["logits"] == 1).all())
        outcome.check(well, f"resumed from {found and found[0]}")
    store.clear()
    outcome.check(not (folder / "store").exists(), "checkpoints are left behind")
    return outcome


WRITER = """
import sys
import numpy as np
from pathlib import Path
from knowsub.artifacts import write_checksummed
print("ready", flush=True)
for number in range(10**9):
    write_checksummed(Path(sys.argv[1]), {"x": np.full(1_000_000, number)}, {"number": number})
"""


def killed_writes(folder: Path, draw: random.Random, number: int) -> Outcome:
    """Kill a process that writes one checksummed file over and over."""
    import numpy as np

    outcome = Outcome("A process killed while it writes a checksummed file: the file is whole")
    path = folder / "checksummed.safetensors"
    write_checksummed(path, {"x": np.full(1_000_000, 7)}, {"number": 7})
    for _ in range(number):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None, "it is a pipe"
            outcome.check(process.stdout.readline() == b"ready\n", "the writer did not start")
            try:
                process.wait(draw.uniform(0, 0.3))
            except subprocess.TimeoutExpired:
                process.kill()
        arrays, description = read_checksummed(path)
        well = bool((arrays["x"] == description["number"]).all())
        outcome.check(well, f"{description} with {arrays['x'][:3]}")
    remove_stale_partials(folder)
    outcome.check(not list(folder.glob("*.partial")), "half-written files stay behind")
    return outcome


def facts(folder: Path, draw: random.Random, number: int) -> Outcome:
    """Read fact files with something wrong in them."""
    outcome = Outcome(
        "Fact files (TSV, JSON Lines) cut off or changed: read, or refused in one line"
    )
    clean = 0
    for _ in range(number):
        name = draw.choice(list(READERS))
        text, read = READERS[name]
        path = folder / name
        path.write_bytes(changed(text, draw))
        try:
            read(path)
            clean += 1
            outcome.check(True, "")
        except Exception:  # noqa: BLE001 - looked at below
            outcome.check(*refused(read, path))
    outcome.note = f"{clean} read, {number - clean} refused"
    return outcome


def changed(text: str, draw: random.Random) -> bytes:
    """Return a text with some pieces put in or taken out, cut off or with other bytes."""
    for _ in range(draw.choice((1, 1, 2, 5))):
        begin = draw.randrange(len(text) + 1)
        end = begin + draw.choice((0, 0, 1, 8))
        text = text[:begin] + draw.choice(SIGNS) + text[end:]
    content = bytearray(text.encode("utf-8", "surrogatepass"))
    if draw.random() < 0.2:
        del content[draw.randrange(len(content)) :]
    if content and draw.random() < 0.2:
        content[draw.randrange(len(content))] = draw.randrange(256)
    return bytes(content)


def refused(read: Callable[[Path], Any], path: Path) -> tuple[bool, str]:
    """Return whether a file is refused by one line that names it, and what came instead."""
    try:
        found = read(path)
    except ValueError as error:
        line = " ".join(str(error).split())
        return str(path) in line, f"no place: {line[:200]}"
    except Exception as error:  # noqa: BLE001 - the case is that there is none
        return False, f"{type(error).__name__}: {error}"
    return False, f"it was read: {found!r:.100}"
