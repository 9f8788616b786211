"""No code hides in a file that is read: no pickle, no remote code, no path out of its folder."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from knowsub.config import load_params
from knowsub.kg.folders import check_name
from tests.pipeline.conftest import ROOT
from tests.torture.ground import Ground, Outcome

PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}
"""Packages that run what a file says."""
CALLS = {"eval", "exec", "compile", "__import__"}
"""Functions that do."""
NAMES = ("../x", "..", "a/b", "/etc/x", "a\\b", "a\0b", "", " ", "a b", "~/x", "a:b", "control")
"""Names of targets that could lead out of a folder, or clash."""


def safety(ground: Ground) -> list[Outcome]:
    """Read all code, and try names that lead elsewhere."""
    code = Outcome("All code read: no pickle, no remote code, nothing on other than loopback")
    for path in sorted([*(ROOT / "knowsub").rglob("*.py"), *(ROOT / "stages").glob("*.py")]):
        unsafe = list(dangers(ast.parse(path.read_text(encoding="utf-8"))))
        code.check(not unsafe, f"{path.relative_to(ROOT)}: {unsafe}")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    code.check("0.0.0.0" not in makefile, "the UI listens beyond loopback")
    names = Outcome("Targets named `../x` and the like: refused in one line")
    folder = ground.folder / "safety"
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        fault = accepted(name, folder / "params.yaml")
        names.check(not fault, fault)
    locked = Outcome("Dependencies: each version locked with its hashes")
    for lock in sorted((ROOT / "requirements").glob("*.lock")):
        bare = unlocked(lock.read_text(encoding="utf-8"))
        locked.check(not bare, f"{lock.name}: {bare[:3]}")
    return [code, names, locked]


def dangers(tree: ast.AST) -> Iterator[str]:
    """Yield what a piece of code does that could run what a file says."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if top(alias.name) in PICKLES)
        elif isinstance(node, ast.ImportFrom) and top(node.module or "") in PICKLES:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            yield from call(node)


def call(node: ast.Call) -> Iterator[str]:
    """Yield what is dangerous in a call."""
    words = ast.unparse(node)
    name = ast.unparse(node.func)
    given = {word.arg: ast.unparse(word.value) for word in node.keywords}
    if name == "torch.load" and given.get("weights_only") != "True":
        yield words
    if given.get("allow_pickle", "False") != "False" or given.get("shell", "False") != "False":
        yield words
    if given.get("trust_remote_code", "False") != "False" or name in CALLS:
        yield words
    if name in {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system"}:
        yield words
    foreign = name.startswith("Auto") and name.endswith(".from_pretrained")
    if foreign and given.get("trust_remote_code") != "False":
        yield words


def top(name: str) -> str:
    """Return the package of a module."""
    return name.partition(".")[0]


def accepted(name: str, path: Path) -> str:
    """Return a fault if both guards let a name through, or one says more than a line."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    quoted = name.replace("\\", "\\\\").replace("\0", "\\0")
    path.write_text(re.sub(r"(?m)^targets: \[.*?\]", lambda _: f'targets: ["{quoted}"]', text))
    passed = 0
    for guard in (lambda: load_params(path=path), lambda: check_name(name)):
        try:
            guard()
            passed += 1
        except (ValueError, FileNotFoundError) as error:
            if len(str(error).splitlines()) != 1:
                return f"{name!r}: more than a line: {error}"
    return f"{name!r} is taken" if passed == 2 else ""


def unlocked(text: str) -> list[str]:
    """Return the requirements of a lock file that carry no hash."""
    entries = re.split(r"\n(?=\S)", re.sub(r"(?m)^#.*\n", "", text))
    return [
        entry.split()[0] for entry in entries if entry.strip() and "--hash=sha256:" not in entry
    ]
