"""A local model that is replaced in place, and facts of one's own in a copy of the checkout."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.lm.setting import toy_tokenizer, wide
from tests.pipeline.conftest import Repository, make_clone


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A clone whose model is a folder outside of it."""
    folder = tmp_path_factory.mktemp("outside")
    wide("gpt2").save_pretrained(folder / "model")
    toy_tokenizer().save_pretrained(folder / "model")
    repository = make_clone(folder / "clone")
    repository.set(pretrain={"model": str(folder / "model")})
    return repository


@pytest.mark.slow
def test_a_local_model_whose_weights_are_replaced_is_pinned_anew(outside: Repository) -> None:
    model = outside.folder.parent / "model"
    assert outside.dvc("repro", "pretrain") == ["check", "prepare", "pretrain"]
    assert outside.dvc("repro", "pretrain") == []
    pinned = (outside.folder / "data/pretrain/model.json").read_text(encoding="utf-8")
    changed = wide("gpt2")
    changed.get_parameter("transformer.h.1.mlp.c_fc.weight")[0, 0] += 1.0
    changed.save_pretrained(model)
    assert outside.dvc("repro", "pretrain") == ["check", "pretrain"]
    assert (outside.folder / "data/pretrain/model.json").read_text(encoding="utf-8") != pinned
    assert outside.dvc("repro", "pretrain") == []
    assert outside.dvc("repro", "--force", "--single-item", "pretrain") == ["pretrain"]


@pytest.mark.slow
def test_untracked_facts_are_named_in_a_copy_of_the_checkout(outside: Repository) -> None:
    mine = outside.folder / "data/raw/mine"
    mine.mkdir()
    (mine / "t.tsv").write_text("subject\trelation\tobject\n", encoding="utf-8")
    changes = ["targets=[t]", "prepare.fact_source=table", "prepare.source_folder=data/raw/mine"]
    words = [word for change in changes for word in ("-S", change)]
    done = outside.run(sys.executable, "-m", "dvc", "exp", "run", "--temp", *words)
    assert done.returncode != 0
    assert "prepare.source_folder: 'data/raw/mine' is in" in done.stdout + done.stderr
    assert Path(mine / "t.tsv").is_file()
