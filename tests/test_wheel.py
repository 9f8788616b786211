"""The wheel in an environment that has what the package itself depends on, and no more."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.evaluation.setting import built_model, tokenizer

ROOT = Path(__file__).parents[1]
PROGRAM = """
import importlib.util
import sys
from pathlib import Path

import knowsub

assert Path(knowsub.__file__).is_relative_to(sys.prefix), knowsub.__file__
absent = ("dvc", "mlflow", "hydra", "ruamel", "matplotlib", "datasets", "peft")
assert not any(map(importlib.util.find_spec, absent))
model, words = knowsub.load(sys.argv[1])
pairs = [(f"kind {kind}{number}", f"t{number % 2}") for kind in "abg" for number in range(5)]
mask = knowsub.find_subnetwork(
    model, words, pairs[:5], pairs[5:], "kind a0 t0 sort g1 t1 " * 60,
    knowsub.train_options(steps=3, block_tokens=8, suppression="uniform"),
)
mask.save("found.safetensors")
with knowsub.ablated(model, knowsub.Mask.load("found.safetensors")):
    model(words("kind a0", return_tensors="pt").input_ids)
shipped = Path(knowsub.__file__).with_name("defaults")
print(sorted(path.name for path in shipped.iterdir()), (shipped / "presets/paper.yaml").is_file())
"""


def needed(names: list[str]) -> Iterator[str]:
    """Yield the distributions that some need, and those that these need, as they are installed."""
    seen: set[str] = set()
    while names:
        name = names.pop()
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        if found.metadata["Name"] in seen:
            continue
        seen.add(found.metadata["Name"])
        yield name
        names += requirements(found.requires or [])


def requirements(lines: list[str]) -> list[str]:
    """Return the names that are required on this machine without any extra."""
    wanted = map(Requirement, lines)
    return [
        each.name for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})
    ]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and links to what it needs."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    source = folder / "source"
    ignored = ("-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = subprocess.run(["git", *ignored], capture_output=True, check=True).stdout
    for name in listed.decode().split("\0"):
        if name.startswith(("knowsub/", "presets/", "data/raw/templates", "pyproject")) or name in {
            "params.yaml", "README.md", "LICENSE",
        }:  # fmt: skip
            place = source / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_symlink():
                place.symlink_to((ROOT / name).readlink())
            elif (ROOT / name).is_file():
                place.write_bytes((ROOT / name).read_bytes())
    subprocess.run([*build, "-w", str(folder), str(source)], check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", symlinks=True)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    own = [line.partition(":")[2] for line in lines if line.startswith("Requires-Dist:")]
    for name in needed(requirements(own)):
        link_distribution(name, site)
    return folder / "env"


def link_distribution(name: str, site: Path) -> None:
    """Link an installed distribution's top folders and files into another environment."""
    found = distribution(name)
    for file in found.files or []:
        top = file.parts[0]
        original = Path(str(found.locate_file(top)))
        if top not in {"..", "__pycache__"} and original.exists() and not (site / top).exists():
            (site / top).symlink_to(original.resolve())


@pytest.mark.slow
def test_the_library_works_without_the_pipelines_packages(
    environment: Path, tmp_path: Path
) -> None:
    built_model().save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    done = subprocess.run(
        [environment / "bin/python", "-I", "-c", PROGRAM, str(tmp_path / "model")],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['params.yaml', 'presets', 'templates.yaml'] True"


@pytest.mark.slow
def test_commands_work_too_or_say_which_extra_they_need(environment: Path) -> None:
    program = "from knowsub.cli import app; app()"
    python = [environment / "bin/python", "-I", "-c", program]
    missing = "knowsub: this command needs more packages: pip install 'knowsub[pipeline]'"
    for name in ("preset", "ui"):
        done = subprocess.run([*python, name], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.splitlines()) == (1, [missing])
    shown = subprocess.run(
        [*python, "show", "nofile"], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert (shown.returncode, shown.stderr) == (1, "knowsub: nofile: no such file\n")
