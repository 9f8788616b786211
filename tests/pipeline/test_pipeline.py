"""The pipeline as its users run it: what runs, what does not, and what stands in MLflow after."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.pipeline.conftest import Repository
from tests.tour import steps
from tests.tour.store import check_store, experiments

pytestmark = pytest.mark.slow
STAGES = ("train", "baseline", "test", "finetune")


def masks(repository: Repository) -> dict[str, str]:
    """Return the digest of every trained mask."""
    files = sorted((repository.folder / "data" / "train").glob("*/mask.safetensors"))
    return {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_mistake_stops_the_pipeline_before_any_stage(clone: Repository) -> None:
    params = clone.folder / "params.yaml"
    before = params.read_text(encoding="utf-8")
    clone.set(train={"lrr": 1.0})
    done = clone.run(sys.executable, "-m", "dvc", "repro")
    params.write_text(before, encoding="utf-8")
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert ": train.lrr is not a known key; did you mean train.lr?" in said
    assert "Running stage 'prepare'" not in said
    assert "Traceback" not in said


def test_every_mask_is_in_the_summary(miniature: Repository) -> None:
    path = miniature.folder / "data" / "report" / "summary.json"
    found = json.loads(path.read_text(encoding="utf-8"))["masks"]
    assert [(mask["target"], mask["seed"]) for mask in found] == [
        ("building.n.01", 0),
        ("building.n.01", 1),
    ]


def test_a_second_repro_runs_nothing(miniature: Repository) -> None:
    assert miniature.dvc("repro") == []
    assert miniature.dvc("status", "-q") == []


def test_mlflow_has_one_run_with_the_metrics_of_all_stages(miniature: Repository) -> None:
    from mlflow import MlflowClient

    store = MlflowClient(f"sqlite:///{miniature.folder}/mlflow/mlflow.db")
    group = store.get_experiment_by_name("knowsub")
    assert group is not None
    runs = store.search_runs([group.experiment_id], max_results=1000)
    whole = [run for run in runs if run.data.tags["knowsub.kind"] == "experiment"]
    stages = sorted(
        (run.data.tags["knowsub.stage"], run.data.tags["knowsub.item"])
        for run in runs
        if run.data.tags["knowsub.kind"] == "stage"
    )
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len(whole) == 1
    for name in ("per_mask/building.n.01-1/sparsity", "mean/target_ppl_ratio"):
        assert name in whole[0].data.metrics
    assert whole[0].data.params["train.steps"] == "8"
    once = [
        (stage, "") for stage in ("prepare", "pretrain", "verbalize", "retain", "analyze", "report")
    ]
    both = [(stage, f"building.n.01-{seed}") for stage in STAGES for seed in (0, 1)]
    assert stages == sorted(once + both)


def test_the_same_seed_finds_the_same_mask_bit_for_bit(miniature: Repository) -> None:
    before = masks(miniature)
    assert len(set(before.values())) == 2
    name = "train@building.n.01-0"
    # forced, alone, and not taken from what DVC remembers of an earlier run
    assert miniature.dvc("repro", "--force", "--single-item", "--no-run-cache", name) == [name]
    assert masks(miniature) == before


@pytest.mark.parametrize("stage", ["train", "baseline"])
@pytest.mark.parametrize("part", ["", "unseen/"])
def test_what_is_predicted_for_unseen_entities_is_read_too(
    miniature: Repository, tmp_path: Path, stage: str, part: str
) -> None:
    apart = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/apart.db"}
    alone = replace(miniature, environment=miniature.environment | apart)
    path = miniature.folder / f"data/verbalize/{part}building.n.01.jsonl"
    whole = path.read_bytes()
    path.write_bytes(b"{}\n" + whole)
    try:
        done = alone.run(sys.executable, "-m", f"stages.{stage}", "building.n.01", "0")
    finally:
        path.write_bytes(whole)
        # on a busy machine the failed run waits to be sent, to the store apart
        for waiting in (miniature.folder / "mlflow/spool").glob("*.jsonl"):
            waiting.unlink()
    assert done.returncode == 1
    assert f"data/verbalize/{part}building.n.01.jsonl:1: no statement" in done.stderr


def test_adding_a_seed_trains_and_tests_that_seed_alone(miniature: Repository) -> None:
    before = masks(miniature)
    miniature.set(seeds=[0, 1, 2])
    ran = miniature.dvc("repro")
    of_masks = [name for name in ran if "@" in name]
    assert of_masks == [f"{stage}@building.n.01-2" for stage in STAGES]
    assert set(ran) - set(of_masks) == {"check", "analyze", "report", "track"}
    after = masks(miniature)
    assert {name: after[name] for name in before} == before


def test_editing_the_analysis_retrains_nothing(miniature: Repository) -> None:
    path = miniature.folder / "knowsub" / "analysis" / "structure.py"
    path.write_text(path.read_text(encoding="utf-8") + "\n# a remark\n", encoding="utf-8")
    ran = {name.partition("@")[0] for name in miniature.dvc("repro")}
    assert "analyze" in ran
    assert not ran & {"prepare", "pretrain", "verbalize", "retain", "train", "baseline", "finetune"}


def test_one_store_holds_every_experiment_once(miniature: Repository) -> None:
    from mlflow import MlflowClient

    store = MlflowClient(f"sqlite:///{miniature.folder}/mlflow/mlflow.db")
    group = store.get_experiment_by_name("knowsub")
    assert group is not None
    whole = store.search_runs([group.experiment_id], "tags.`knowsub.kind` = 'experiment'")
    keys = [run.data.tags["knowsub.key"] for run in whole]
    assert len(keys) == len(set(keys))
    finished = [run for run in whole if run.info.status == "FINISHED"]
    assert all("mean/sparsity" in run.data.metrics for run in finished)
    newest = finished[0]
    assert int(newest.data.tags["knowsub.stages_from_cache"]) > 0


def test_the_outputs_stay_out_of_git(miniature: Repository) -> None:
    done = miniature.run("git", "status", "--porcelain")
    changed = {line[3:] for line in done.stdout.splitlines()}
    allowed = {
        "README.md",
        "data/report/",
        "data/report/summary.json",
        "docs/results.md",
        "dvc.lock",
        "knowsub/analysis/structure.py",
        "params.yaml",
    }
    assert changed <= allowed
    assert not list((miniature.folder / "data").rglob(".gitignore"))
    assert Path(miniature.folder / "mlflow" / "tracked.json").is_file()


def test_the_library_example_of_the_readme_runs(miniature: Repository) -> None:
    readme = (miniature.folder / "README.md").read_text(encoding="utf-8")
    example = readme.partition("```python\n")[2].partition("```")[0]
    assert len(example.splitlines()) <= 16
    done = miniature.run(sys.executable, "-c", example)
    assert done.returncode == 0, done.stderr
    assert "->" in done.stdout


def test_a_temporary_copy_logs_into_the_one_store(miniature: Repository) -> None:
    steps.commit(miniature, "as it is")
    known = len(experiments(miniature.folder))
    steps.temporary(miniature, "report.title=Another")
    check_store(miniature.folder, known + 1)


def test_two_workers_of_a_queue_lose_and_double_nothing_on_a_cold_store(
    miniature: Repository,
) -> None:
    shutil.rmtree(miniature.folder / "mlflow")
    steps.queue(miniature, "report.max_control_facts=5,6")
    check_store(miniature.folder, 2)


def test_experiments_are_listed_applied_and_compared(miniature: Repository) -> None:
    steps.show(miniature)
    steps.apply(miniature)
    steps.metrics_diff(miniature)
    steps.plots_diff(miniature)
    check_store(miniature.folder, 2)


def test_the_removed_model_is_registered_and_loads_back_bit_for_bit(miniature: Repository) -> None:
    steps.registered_model(miniature)
    check_store(miniature.folder, 2)
