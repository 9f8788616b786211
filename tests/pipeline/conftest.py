"""The whole pipeline in miniature: a clone of the working tree, run by the real DVC once."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TINY: dict[str, dict[str, Any]] = {
    "prepare": {
        "extra_targets": [],
        "target_facts": 8,
        "neighborhood_facts": 6,
        "unseen_entities": 60,
        "unseen_facts": 8,
        "control_facts": 60,
        "text": "tests/fixtures/pipeline/text.txt",
        "other_text": "tests/fixtures/pipeline/other.txt",
    },
    "pretrain": {
        "blocks": 2,
        "width": 32,
        "heads": 2,
        "vocabulary": 400,
        "context": 64,
        "steps": 30,
        "statements": 32,
        "text_blocks": 2,
        "block_tokens": 16,
        "max_object_perplexity": 1e6,
    },
    "train": {
        "steps": 8,
        "block_tokens": 16,
        "target_batch": 4,
        "control_batch": 8,
        "neighborhood_batch": 2,
        "text_batch": 2,
        "evaluate_every": 4,
        "checkpoint_every": 4,
        "init_prob": 0.5,
        "sparsity_weight_start": 0.1,
        "sparsity_weight_end": 0.2,
        "target_density": 0.0,
        "max_density": 0.1,
    },
    "baseline": {"integration_steps": 2},
    "test": {
        "block_tokens": 16,
        "text_blocks": 4,
        "random_masks": 3,
        "random_text_masks": 1,
        "reference_draws": 1,
        "relearning_folds": 2,
        "relearning_steps": 2,
        "relearning_checkpoints": [1, 2],
        "resamples": 50,
    },
    "finetune": {"repeats": 1, "steps": 4, "evaluate_every": 2, "resamples": 100},
    "analyze": {"max_facts": 8, "tradeoff_sizes": [0.5]},
    "report": {"dpi": 50},
}
"""Values that make every stage take about a second; metrics mean nothing at this size."""


@dataclass(frozen=True)
class Repository:
    """A clone with the environment that its commands run in."""

    folder: Path
    """Root of the clone."""
    environment: dict[str, str]
    """Environment without what an outer DVC, git or MLflow left in it."""

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the clone; its status is for the caller to judge."""
        # files, not pipes: the workers of a queue keep a pipe open for as long as they live
        with TemporaryFile() as out, TemporaryFile() as err:
            done = subprocess.run(
                command, cwd=self.folder, env=self.environment, stdout=out, stderr=err, check=False
            )
            for file in (out, err):
                file.seek(0)
            said = [file.read().decode("utf-8") for file in (out, err)]
        return subprocess.CompletedProcess(command, done.returncode, *said)

    def dvc(self, *arguments: str) -> list[str]:
        """Run DVC and return the names of the stages that it ran; fail if it failed."""
        return re.findall(r"^Running stage '(.+)':", self.said(*arguments), re.MULTILINE)

    def said(self, *arguments: str) -> str:
        """Run DVC and return what it said; fail if it failed."""
        done = self.run(sys.executable, "-m", "dvc", *arguments)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def set(self, **values: Any) -> None:
        """Change top-level values of params.yaml, or values of its sections."""
        path = self.folder / "params.yaml"
        params = yaml.safe_load(path.read_text(encoding="utf-8"))
        for name, value in values.items():
            params[name] = params[name] | value if isinstance(value, dict) else value
        path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def _environment(folder: Path) -> dict[str, str]:
    outer = ("DVC_", "GIT_", "MLFLOW_", "PYTHONPATH")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
    me = {"NAME": "Test", "EMAIL": "test@example.org"}
    return clean | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{clean['PATH']}",
        "DVC_NO_ANALYTICS": "true",
        "DVC_SITE_CACHE_DIR": str(folder / "site"),
        "PYTHONDONTWRITEBYTECODE": "1",
        **{f"GIT_{role}_{part}": me[part] for role in ("AUTHOR", "COMMITTER") for part in me},
    }


def make_clone(folder: Path) -> Repository:
    """Copy the files that git knows or would take, with tiny parameters, and commit them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if name != "dvc.lock" and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    repository = Repository(folder, _environment(folder.parent))
    repository.set(targets=["building.n.01"], seeds=[0, 1], **TINY)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "miniature"]):
        done = repository.run("git", *command)
        assert done.returncode == 0, done.stderr
    return repository


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A clone of the working tree; nothing has run."""
    return make_clone(tmp_path_factory.mktemp("pipeline") / "clone")


@pytest.fixture(scope="session")
def miniature(clone: Repository) -> Repository:
    """The clone after one `dvc repro`."""
    clone.dvc("repro")
    return clone
