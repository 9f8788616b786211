"""Presets: each composes to a valid configuration, each search runs, and no edit is lost."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import Result
from dvc.utils.hydra import apply_overrides
from typer.testing import CliRunner

from knowsub.architectures import ModuleType
from knowsub.cli import app
from knowsub.cli.presets import description, edited, hydra_text
from knowsub.config import load_params, read_params
from knowsub.discovery.trainer import find_subnetwork
from tests.discovery.setting import search, validation

ROOT = Path(__file__).parents[2]
PRESETS = sorted(path.stem for path in (ROOT / "presets").glob("*.yaml"))
MODELS = ["paper-gpt2", "paper-gpt2-medium", "paper-gpt2-large", "paper-gpt2-xl"]
ABLATIONS = [name for name in PRESETS if name.startswith("ablation-")]
SEARCHES = [["paper"], ["paper-gpt2"], *([name] for name in ABLATIONS)]
SEARCHES += [["paper", name] for name in ABLATIONS]
SMALL = {
    "steps": 4, "target_batch": 3, "control_batch": 5, "neighborhood_batch": 3, "text_batch": 2,
    "block_tokens": 8, "grad_accumulation": 1, "evaluate_every": 2, "checkpoint_every": 2,
}  # fmt: skip
"""What fits a search of few steps on a tiny model; all else is the preset's."""


def call(*words: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, ["preset", *words])
    assert done.exit_code == code, done.output
    return done


def git(*words: str) -> None:
    me = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *me, *words], check=True, capture_output=True)


@pytest.fixture
def _root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with the presets and params.yaml, committed; the working directory."""
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "start")
    return tmp_path / "params.yaml"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_composes_to_a_valid_configuration_written_or_as_overrides(
    name: str, repository: Path
) -> None:
    printed = shlex.split(call(name, "--overrides").stdout)
    assert printed[::2] == ["-S"] * (len(printed) // 2)
    as_overrides = load_params(printed[1::2])
    apply_overrides(repository, printed[1::2])  # as `dvc exp run -S` does
    by_dvc = load_params()
    git("checkout", "-q", "params.yaml")
    call(name, "--write")
    assert load_params() == as_overrides == by_dvc


@pytest.mark.usefixtures("_root")
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_small_file_with_a_line_on_what_it_is(name: str) -> None:
    text = (ROOT / f"presets/{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert 20 < len(description(name)) < 120
    assert len(text.splitlines()) < 65
    assert description(name) in call("--list").stdout


@pytest.mark.usefixtures("_root")
@pytest.mark.parametrize("names", SEARCHES, ids="+".join)
def test_the_search_of_a_preset_runs_on_a_tiny_model(names: list[str]) -> None:
    printed = shlex.split(call(*names, "--overrides").stdout)
    chosen = asdict(load_params(printed[1::2]).train) | SMALL
    made = search(**chosen)
    found = find_subnetwork(made, lambda: validation(made))
    assert len(found.curve) == SMALL["steps"]
    assert ("expression" in found.curve[0]) == (chosen["expression_weight"] > 0)
    assert found.bits.float().mean() <= chosen["max_density"]


@pytest.mark.usefixtures("_root")
def test_the_papers_presets_differ_in_the_model_and_in_how_a_batch_is_cut() -> None:
    trees = [json.loads(call(name, "--overrides", "--json").stdout) for name in MODELS]
    own = ("pretrain.model=", "train.grad_accumulation=")  # for another model or GPU
    kept = [{each for each in tree["overrides"] if not each.startswith(own)} for tree in trees]
    assert kept[0] == kept[1] == kept[2] == kept[3]
    assert "train.steps=40000" in kept[0]
    asked = [one for tree in trees for one in tree["overrides"] if one.startswith(own[0])]
    assert asked == [f"pretrain.model={name.removeprefix('paper-')}" for name in MODELS]


@pytest.mark.usefixtures("_root")
@pytest.mark.parametrize(
    ("name", "silent"),
    [
        ("ablation-no-suppression", ["suppression_weight"]),
        ("ablation-no-maintenance-kg", ["control_weight", "neighborhood_weight"]),
        ("ablation-no-maintenance-lm", ["text_weight"]),
        ("ablation-no-sparsity", ["sparsity_weight_start", "sparsity_weight_end"]),
    ],
)
def test_an_ablation_takes_its_term_off_the_papers_objective(name: str, silent: list[str]) -> None:
    before, after = (
        asdict(load_params(shlex.split(call(*names, "--overrides").stdout)[1::2]).train)
        for names in (["paper"], [name])
    )
    changed = {key for key in before if before[key] != after[key]}
    assert {key: after[key] for key in silent} == dict.fromkeys(silent, 0.0)
    assert changed == {key for key in silent if before[key]}


def test_without_write_the_difference_is_shown_and_nothing_is_written(repository: Path) -> None:
    before, steps = repository.read_bytes(), load_params().train.steps
    shown = call("paper-gpt2").stdout
    assert "--- a/params.yaml\n+++ b/params.yaml\n" in shown
    assert f"\n-  steps: {steps} " in shown
    assert "\n+  steps: 40000 " in shown
    assert repository.read_bytes() == before


def test_writing_changes_values_and_keeps_comments_order_and_columns(repository: Path) -> None:
    old = repository.read_text(encoding="utf-8")
    assert "values written" in call("paper-gpt2", "--write").stdout
    new = repository.read_text(encoding="utf-8")
    before, after = read_params(old, "params.yaml"), read_params(new, "params.yaml")
    assert after.places == before.places
    assert list(after.values["train"]) == list(before.values["train"])
    lines, now = old.splitlines(), new.splitlines()
    assert len(now) == len(lines)
    steps = next(line for line in now if line.startswith("  steps: 40000"))
    assert steps.index("#") == lines[now.index(steps)].index("#")
    assert "has these values already" in call("paper-gpt2", "--write").stdout


def test_a_file_that_dvc_has_rewritten_in_block_style_is_written_too(repository: Path) -> None:
    apply_overrides(repository, ["targets=[location.n.01]", "seeds=[7]", "train.modules=[q]"])
    assert "\n- location.n.01\n" in repository.read_text(encoding="utf-8")
    before = read_params(repository.read_text(encoding="utf-8"), "params.yaml")
    call("paper-gpt2", "--write", "--force")
    params = load_params()
    assert params.seeds == [84, 1318, 735]
    assert len(params.targets) == 7
    assert params.train.modules == list(ModuleType)
    after = read_params(repository.read_text(encoding="utf-8"), "params.yaml")
    assert [comment for _, comment in after.places.values()] == [
        comment for _, comment in before.places.values()
    ]


def test_an_empty_list_and_text_in_quotes_are_written_as_they_are_read(repository: Path) -> None:
    (repository.parent / "presets/mine.yaml").write_text(
        "# Mine, for this test alone\ntrain:\n  blocks: '2:4'\nanalyze:\n  tradeoff_sizes: []\n"
        "report:\n  title: 'on'\n  thresholds:\n    sparsity: '>= 0.5'\n"
    )
    call("mine", "--write")
    params = load_params()
    assert (params.train.blocks, params.analyze.tradeoff_sizes) == ("2:4", [])
    assert (params.report.title, params.report.thresholds["sparsity"]) == ("on", ">= 0.5")
    assert len(params.report.thresholds) > 10


@pytest.mark.parametrize(
    "text",
    [
        "a:\n  x:                # what; list\n  - q\n  - k\n  other: 1              # other\n",
        "a:\n  x: # what\n    - q # first\n    - k\n  # alone\n  other: 1\n",
        "a:\n  other: 1\n  x:\n  - q\n",
        "a: {x: [q], other: 1}\n",
    ],
)
@pytest.mark.parametrize("value", [[], ["z"], ["q", "k", "v"]])
def test_a_list_in_any_style_takes_any_number_of_entries(text: str, value: list[str]) -> None:
    once = edited(text, {"a.x": value})
    assert read_params(once, "p").values == {"a": {"x": value, "other": 1}}
    again = edited(once, {"a.x": ["m", "o"]})
    assert read_params(again, "p").values == {"a": {"x": ["m", "o"], "other": 1}}
    assert once.count("# what") == text.count("# what")


def test_later_presets_override_earlier_ones(repository: Path) -> None:
    call("paper-gpt2", "conceptnet-three", "--write")
    params = load_params()
    assert params.targets == ["fruit", "sun", "swimming"]
    assert (params.pretrain.model, params.train.steps) == ("gpt2", 40_000)


def test_edits_that_are_not_committed_are_not_written_over_unless_forced(repository: Path) -> None:
    changed = repository.read_text(encoding="utf-8").replace("  dpi: 150 ", "  dpi: 151 ")
    repository.write_text(changed, encoding="utf-8")
    for stage in ((), ("add", "params.yaml")):
        if stage:
            git(*stage)
        error = call("paper", "--write", code=1).stderr
        told = "params.yaml has edits not yet committed; commit it, or --force writes over it"
        assert error == f"knowsub: {told}\n"
        assert repository.read_text(encoding="utf-8") == changed
    call("paper", "--write", "--force")
    assert (load_params().report.dpi, load_params().train.steps) == (151, 40_000)


def test_a_file_that_git_does_not_know_is_not_written_unless_forced(repository: Path) -> None:
    git("rm", "-q", "--cached", "params.yaml")
    assert "has edits not yet committed" in call("paper", "--write", code=1).stderr
    shutil.rmtree(repository.parent / ".git")
    assert "is in no git repository" in call("paper", "--write", code=1).stderr
    call("paper", "--write", "--force")


def test_presets_that_are_wrong_are_refused_in_one_line(repository: Path) -> None:
    folder, before = repository.parent / "presets", repository.read_bytes()
    cases = {
        "unknown-key": (
            "train:\n  stepz: 3\n",
            "train.stepz is not a known key; did you mean train.steps?",
        ),
        "out-of-range": ("train:\n  init_prob: 3.0\n", "train.init_prob: value 3.0 should be less"),
        "circle": ("defaults: [circle, _self_]\n", "preset circle: a preset extends itself"),
        "missing": ("defaults: [nothing, _self_]\n", "Could not load 'nothing'"),
        "yaml": ("train: [\n", "expected the node content"),
        "switch": ("train:\n  steps: yes\n", "train.steps: value True should be a whole number"),
    }
    for name, (text, message) in cases.items():
        (folder / f"{name}.yaml").write_text(f"# Wrong\n{text}", encoding="utf-8")
        error = call(name, "--write", code=1).stderr
        assert message in error, name
        assert error.count("\n") == 1
    assert "did you mean paper-gpt2?" in call("paper-gtp2", code=1).stderr
    assert "needs a name of" in call(code=1).stderr
    assert "give one of" in call("paper", "--write", "--overrides", code=2).stderr
    assert repository.read_bytes() == before


@pytest.mark.usefixtures("_root")
@pytest.mark.parametrize(
    "text", ["", "2:4", "it's", "a b", "C:\\x", "C:\\", "a\\'b", "true", "null", "wiki/x:y-2"]
)
def test_text_survives_as_an_override(text: str) -> None:
    assert load_params([f"pretrain.revision={hydra_text(text)}"]).pretrain.revision == text


def test_outside_the_repository_the_command_says_where_to_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "run from the root of the repository" in call("--list", code=1).stderr


def test_every_part_of_a_model_is_masked_by_the_papers_preset(repository: Path) -> None:
    call("paper", "--write")
    assert load_params().train.modules == list(ModuleType)
