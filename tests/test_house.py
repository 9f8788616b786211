"""The rules of the house: arrows, sizes, words, and files that say the same thing twice."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml

from knowsub.config import Params

ROOT = Path(__file__).parents[1]
STAGES = sorted(path.stem for path in (ROOT / "stages").glob("[a-z]*.py"))
RIM = (
    "config",
    "inputs",
    "params_file",
    "progress",
    "provenance",
    "ranges",
    "repro",
    "runner",
    "tracking",
)
"""Files that bring no result about: how values are read, and where metrics are logged."""
MACHINE = ("machine", "track")
"""Sections that no result depends on."""
FILE_LINES, FUNCTION_LINES, STAGE_LINES = 400, 40, 60
LIBRARY_FILES, LIBRARY_LINES, RIM_LINES = 122, 23_720, 2_120
MEDIAN_FUNCTION, ONE_IMPORTER = 10, 30
LONG_FILES = {"knowsub/tracking.py": 560}
"""Longer than others: all of MLflow is in one file."""
FORBIDDEN = re.compile(
    r"^(utils?|helpers?|common|\w*manager|\w*handler|process_\w+)$", re.IGNORECASE
)


@cache
def pipeline() -> dict[str, Any]:
    found = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert isinstance(found, dict)
    return found


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("knowsub", "stages", exclude_type_checking_imports=True)


def library() -> list[Path]:
    return sorted((ROOT / "knowsub").rglob("*.py"))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_every_section_has_a_stage_and_every_stage_its_file() -> None:
    sections = {field.name for field in fields(Params)} - {"targets", "seeds", "machine"}
    assert sections == set(STAGES)
    assert set(pipeline()) == {"check", *STAGES}


def rooms(stage: str) -> set[str]:
    """Return what a stage imports of the library, its rim left out, as paths of rooms."""
    reached: set[str] = set()
    waiting = [f"stages.{stage}"]
    while waiting:
        module = waiting.pop()
        for found in graph().find_modules_directly_imported_by(module):
            name = found.removeprefix("knowsub.").partition(".")[0]
            if found.startswith("knowsub.") and name not in RIM and found not in reached:
                reached.add(found)
                waiting.append(found)
    names = {module.split(".")[1] for module in reached}
    return {
        f"knowsub/{name}" if (ROOT / "knowsub" / name).is_dir() else f"knowsub/{name}.py"
        for name in names
    }


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "track"])
def test_a_stage_depends_on_its_file_and_on_the_rooms_that_it_imports(stage: str) -> None:
    deps = pipeline()[stage]["deps"]
    code = {dep for dep in deps if dep.startswith(("knowsub/", "stages/"))} - {"knowsub/templates"}
    assert code == rooms(stage) | {f"stages/{stage}.py"}


def test_the_last_stage_depends_on_all_code_because_runs_are_keyed_on_it() -> None:
    assert {"knowsub", "stages", "requirements/run.lock"} <= set(pipeline()["track"]["deps"])


def test_the_check_depends_on_everything_that_can_refuse_a_value() -> None:
    named = {str(path.relative_to(ROOT)) for path in (ROOT / "knowsub").glob("*/options.py")}
    rim = ("config", "inputs", "params_file", "ranges")
    named |= {f"knowsub/{name}.py" for name in rim}
    assert named == {dep for dep in pipeline()["check"]["deps"] if dep.startswith("knowsub/")}
    assert pipeline()["check"]["params"] == [field.name for field in fields(Params)]


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "track"])
def test_a_stage_is_keyed_on_the_parameters_that_it_reads(stage: str) -> None:
    tree = ast.parse((ROOT / "stages" / f"{stage}.py").read_text(encoding="utf-8"))
    read = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "params"
    }
    assert read - set(MACHINE) == set(pipeline()[stage]["params"])


def test_files_are_short() -> None:
    long = {
        name: count
        for path in library()
        if (count := len(path.read_text(encoding="utf-8").splitlines()))
        > LONG_FILES.get(name := str(path.relative_to(ROOT)), FILE_LINES)
    }
    assert not long


@pytest.mark.parametrize("stage", STAGES)
def test_stages_are_thin(stage: str) -> None:
    text = (ROOT / "stages" / f"{stage}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= STAGE_LINES


def test_functions_are_short() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in library()
        for node in functions(path)
        if (node.end_lineno or 0) - node.lineno + 1 - _docstring_lines(node) > FUNCTION_LINES
    ]
    assert not long


def _docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return len((ast.get_docstring(node) or "").splitlines())


def test_no_name_says_nothing() -> None:
    named = [
        (path, word)
        for path in [*library(), *(ROOT / "stages").glob("*.py")]
        for word in (path.stem, path.parent.name, *(node.name for node in functions(path)))
        if FORBIDDEN.match(word)
    ]
    assert not named


def test_importing_one_room_imports_no_other_by_way_of_the_package() -> None:
    package = (ROOT / "knowsub" / "__init__.py").read_text(encoding="utf-8")
    assert not re.search(r"^(from|import) knowsub", package, re.MULTILINE)  # typing alone does


def test_options_do_not_import_torch() -> None:
    names = [
        f"knowsub.{path.parent.name}.options" for path in (ROOT / "knowsub").glob("*/options.py")
    ]
    program = f"import sys, {', '.join(names)}; print(*({{'torch', 'numpy'}} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == ""


def test_the_arrows_between_rooms_go_down() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_library_keeps_its_size() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in library()}
    rim = [ROOT / f"knowsub/{name}.py" for name in (*RIM, "artifacts")]
    lengths = [
        (node.end_lineno or 0) - node.lineno + 1 - _docstring_lines(node)
        for path in library()
        for node in functions(path)
    ]
    assert len(lines) <= LIBRARY_FILES
    assert sum(lines.values()) <= LIBRARY_LINES
    assert sum(lines[path] for path in rim) <= RIM_LINES
    assert statistics.median(lengths) <= MEDIAN_FUNCTION


def test_few_modules_serve_a_single_importer() -> None:
    modules = [module for module in graph().modules if module.startswith("knowsub.")]
    single = [m for m in modules if len(graph().find_modules_that_directly_import(m)) == 1]
    assert len(single) <= ONE_IMPORTER, sorted(single)
