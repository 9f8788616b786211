"""The configuration: what params.yaml may hold, and one line on everything that it may not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from knowsub.config import load_params

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def text() -> str:
    return (ROOT / "params.yaml").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def edited(text: str, key: str, line: str) -> str:
    """Return the text with the line of `section.key` replaced."""
    section, _, name = key.rpartition(".")
    lines = text.splitlines()
    starts = (place for place, row in enumerate(lines) if row.startswith(f"{section}:"))
    begin = next(starts) if section else 0
    indent = "  " if section else ""
    for place in range(begin, len(lines)):
        if lines[place].startswith(f"{indent}{name}:"):
            return "\n".join([*lines[:place], *line.splitlines(), *lines[place + 1 :]]) + "\n"
    raise KeyError(key)


def test_the_shipped_file_is_valid() -> None:
    params = load_params()
    assert params.targets
    assert params.seeds == sorted(params.seeds)


def test_an_override_changes_one_value_and_nothing_else() -> None:
    before, after = load_params(), load_params(["train.lr=0.125", "seeds=[3]"])
    assert after.train.lr == 0.125
    assert after.seeds == [3]
    after.train.lr, after.seeds = before.train.lr, before.seeds
    assert after == before


def test_an_exponent_is_the_same_number_to_every_reader(text: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(edited(text, "train.lr", "  lr: 1e-3"))
    assert load_params(path=path).train.lr == 0.001


MISTAKES = [
    ("train.lr", "  lrr: 0.4", "train.lrr is not a known key; did you mean train.lr?"),
    ("train.lr", "", "train.lr is missing"),
    ("train.lr", "  lr: fast", "train.lr: value 'fast' is not a number"),
    ("train.lr", '  lr: "0.4"', "train.lr: value '0.4' is not a number"),
    ("train.lr", '  lr: "1e-3"', "train.lr: value '1e-3' is not a number"),
    ("train.lr", "  lr: -0.4", "train.lr: value -0.4 is not allowed"),
    ("train.lr", "  lr: 0", "train.lr: value 0.0 is not allowed"),
    ("train.lr", "  lr: .inf", "train.lr: value .inf is read differently"),
    ("train.lr", "  lr: .nan", "train.lr: value .nan is read differently"),
    ("train.lr", "  lr: 0,4", "train.lr: value '0,4' is not a number"),
    ("train.lr", "  lr:", "train.lr: value that is empty is not a number"),
    ("train.lr", "  lr: [0.4]", "train.lr: value [0.4] is not a number"),
    ("train.lr", "  lr: true", "train.lr: value True is not a number"),
    ("train.lr", "  lr: on", "train.lr: value on is read as a switch"),
    ("train.lr", "  lr: ${train.steps}", "train.lr: value '${train.steps}' refers to another"),
    ("train.lr", "  lr: 0.4\n  lr: 0.3", "train.lr stands there twice"),
    ("train.steps", "  steps: 010", "train.steps: value 010 is read differently"),
    ("train.steps", "  steps: 0x10", "train.steps: value 0x10 is read differently"),
    ("train.steps", "  steps: 1_000", "train.steps: value 1_000 is read differently"),
    ("train.steps", "  steps: 1:30", "train.steps: value 1:30 is read differently"),
    ("train.steps", "  steps: 1e3", "train.steps: value 1000.0 is not a whole number"),
    ("train.steps", "  steps: 2.5", "train.steps: value 2.5 is not a whole number"),
    ("train.steps", "  steps: 0", "train.steps: value 0 is not allowed"),
    (
        "train.granularity",
        "  unit: wieght",
        "train.granularity: value 'wieght' is not one of weight, input",
    ),
    ("train.granularity", "  unit: 3", "train.granularity: value 3 is not one of weight"),
    ("train.modules", "  parts: [q, w]", "train.modules: value 'w' is not one of q, k"),
    ("train.modules", "  parts: q", "train.modules: value 'q' is not a list in [ ]"),
    ("train.modules", "  parts: []", "train.modules: value [] is not allowed"),
    ("train.blocks", "  blocks: 2:9", "train.blocks: value 2:9 is read differently"),
    ("train.blocks", '  blocks: "2:9"', "train.blocks: 2:9 reaches beyond the model's 4"),
    ("train.blocks", "  blocks: top", "train.blocks: value 'top' is not allowed"),
    ("train.block_tokens", "  block_tokens: 4096", "train.block_tokens: value 4096 is above"),
    ("track.artifacts", "  artifacts: yes", "track.artifacts: value yes is read as a switch"),
    ("track.artifacts", "  artifacts: off", "track.artifacts: value off is read as a switch"),
    ("track.artifacts", "  artifacts: 1", "track.artifacts: value 1 is not true or false"),
    ("track.experiment", "  experiment: ' '", "track.experiment: value ' ' is not a name"),
    ("track.experiment", "  experiment: 7", "track.experiment: value 7 is not text"),
    ("track.model", "  model: yes", "track.model: value yes is read as a switch"),
    ("track.register", "  register: a/b", "track.register: value 'a/b' is not a name"),
    ("machine.device", "  device: gpu", "machine.device: value 'gpu' is not one of auto, cpu"),
    ("machine.threads", "  threads: -1", "machine.threads: value -1 is not allowed"),
    ("machine.memory_gb", "  memory_gb: 0", "machine.memory_gb: value 0.0 is not allowed"),
    ("targets", "targets: building.n.01", "targets: value 'building.n.01' is not a list"),
    ("targets", "targets: []", "targets: value [] is not allowed; name at least one"),
    ("targets", "targets: [a/b]", "targets: value 'a/b' cannot name a folder"),
    ("targets", "targets: [1]", "targets: value 1 is not text"),
    (
        "targets",
        "targets: [buildng.n.01]",
        "targets: value 'buildng.n.01' is not a noun synset; did you mean building.n.01?",
    ),
    ("seeds", "seeds: [0, 0]", "seeds: value [0, 0] names one twice"),
    ("seeds", "seeds: [-1]", "seeds: value -1 is not allowed"),
    ("seeds", "seeds: [99999999999]", "use an integer 0..4294967295"),
    ("seeds", "seeds: [a]", "seeds: value 'a' is not a whole number"),
    ("seeds", "seeds: {a: 0}", "seeds: value {'a': 0} is not a list"),
    ("seeds", "seed: [0]", "seed is not a known key; did you mean seeds?"),
    ("prepare.levels", "  levels: 9", "prepare.levels: value 9 is not allowed"),
    ("pretrain.heads", "  heads: 3", "pretrain.heads"),
]


@pytest.mark.parametrize(
    ("key", "line", "message"), MISTAKES, ids=[row[2][:60] for row in MISTAKES]
)
def test_a_mistake_is_one_line_with_file_key_value_and_what_is_allowed(
    text: str, tmp_path: Path, key: str, line: str, message: str
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(edited(text, key, line), encoding="utf-8")
    with pytest.raises(ValueError, match=r"params\.yaml") as caught:
        load_params(path=path)
    said = str(caught.value)
    assert message in said
    assert "\n" not in said
    assert said.startswith("params.yaml")


WRONG_FILES = [
    (b"", "is not a mapping"),
    (b"- a\n", "is not a mapping"),
    (b"a: [1\n", "line 2: is not YAML"),
    (b"a:\tb: c\n", "line 1: is not YAML"),
    (b"a: \xff\n", "is not UTF-8"),
    (b"a: *b\n", "is not YAML"),
    (b"train: 3\n", "targets is missing"),
]


@pytest.mark.parametrize(("content", "message"), WRONG_FILES, ids=[row[1] for row in WRONG_FILES])
def test_what_is_no_configuration_at_all_is_one_line_too(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_params(path=path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run from the root"):
        load_params(path=tmp_path / "params.yaml")


def test_a_missing_section_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text[: text.index("machine:")], encoding="utf-8")
    with pytest.raises(ValueError, match=r"params\.yaml: machine is missing"):
        load_params(path=path)


def test_a_value_for_a_section_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text[: text.index("machine:")] + "machine: fast\n", encoding="utf-8")
    with pytest.raises(ValueError, match="machine: value 'fast' is not a section of keys"):
        load_params(path=path)


WRONG_OVERRIDES = [
    ("train.lrr=1", "override train.lrr=1: train.lrr is not a known key; did you mean train.lr?"),
    ("trian.lr=1", "override trian.lr=1: trian.lr is not a known key"),
    ("train.lr=fast", "params.yaml with train.lr=fast: train.lr: value 'fast' is not a number"),
    ("train.lr", "override train.lr: "),
    ("train.lr=[1", "override train.lr=[1: "),
    ("+train.more=1", "train.more is not a known key"),
    ("~train.lr", "train.lr is missing"),
]


@pytest.mark.parametrize(("override", "message"), WRONG_OVERRIDES)
def test_a_mistaken_override_is_one_line(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"override|params\.yaml") as caught:
        load_params([override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def check(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "knowsub.config", "--check", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def test_the_check_of_a_valid_file_says_nothing_and_marks_it(tmp_path: Path) -> None:
    done = check(ROOT, "--mark", str(tmp_path / "valid"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "valid").read_text() == "params.yaml is valid\n"


def test_the_check_of_a_mistake_ends_in_one_line_and_status_1(text: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(edited(text, "train.lr", "  lrr: 1"), encoding="utf-8")
    done = check(tmp_path)
    assert done.returncode == 1
    assert done.stderr == ("params.yaml: train.lrr is not a known key; did you mean train.lr?\n")
    assert done.stdout == ""


def test_no_mark_is_left_where_there_is_a_mistake(tmp_path: Path) -> None:
    assert check(ROOT, "--mark", str(tmp_path / "valid"), "train.lr=fast").returncode == 1
    assert not (tmp_path / "valid").exists()


def test_the_configuration_is_read_without_torch_mlflow_or_hydra() -> None:
    program = (
        "import sys; from knowsub.config import load_params; load_params(); "
        "print(*sorted({'torch', 'transformers', 'mlflow', 'hydra', 'numpy', 'matplotlib'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_the_configuration_is_read_within_a_second_of_the_processor() -> None:
    begin = time.process_time()
    load_params()
    assert time.process_time() - begin < 1.0


STAGE = """
from knowsub.config import stage_main

def main(target: str, seed: int) -> str:
    if target == "wrong":
        raise ValueError("target: value 'wrong'\\n is not allowed")
    import os
    return f"{target!r} {seed + 1} {os.environ['OMP_NUM_THREADS']}"

if __name__ == "__main__":
    stage_main(main)
"""


def stage(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "sample.py").write_text(STAGE)
    return subprocess.run(
        [sys.executable, "-m", "sample", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"} | environment,
    )


def test_a_stage_takes_its_arguments_in_the_types_it_names(tmp_path: Path) -> None:
    done = stage(tmp_path, "building.n.01", "4")
    threads = load_params().machine.item_threads
    assert done.returncode == 0
    assert done.stderr.startswith(f"sample: 'building.n.01' 5 {threads} (")


def test_a_quiet_stage_says_nothing(tmp_path: Path) -> None:
    done = stage(tmp_path, "building.n.01", "4", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_mistake_in_a_stage_is_one_line_without_a_traceback(tmp_path: Path) -> None:
    done = stage(tmp_path, "wrong", "4")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "sample: target: value 'wrong' is not allowed\n"


def test_the_traceback_is_there_for_those_who_ask(tmp_path: Path) -> None:
    done = stage(tmp_path, "wrong", "4", KNOWSUB_DEBUG="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_stage_without_its_arguments_says_what_it_wants(tmp_path: Path) -> None:
    done = stage(tmp_path, "building.n.01")
    assert done.returncode == 2
    assert "seed" in done.stderr
