from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from knowsub.architectures import maskable_matrices
from knowsub.artifacts import read_checksummed, write_checksummed
from knowsub.cli import app
from knowsub.cli.masks import read_mask
from knowsub.lm.identity import identity
from knowsub.masks.ablation import ablated
from knowsub.masks.mask import Mask, load_mask, save_mask
from tests.evaluation.setting import built_model, fact_mask, tokenizer

A = [f"a{index}" for index in range(5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model in which one weight holds each fact, and masks of some of its facts."""
    folder = tmp_path_factory.mktemp("cli")
    model = built_model()
    model.save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    made_for = identity(model, AutoTokenizer.from_pretrained(folder / "model"))
    for name, subjects in {"a": A, "half": A[:3], "other": ["b0", "a0"]}.items():
        mask = fact_mask(model, subjects)
        meta = {"target": f"group {name}", "seed": "0"}
        save_mask(Mask(mask.bits, made_for, meta), folder / f"{name}.safetensors")
    return folder


def call(*words, code=0):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done


def ask(*words):
    return json.loads(call(*words, "--json").stdout)


def test_help_and_mistakes_are_answered_at_once_without_torch():
    script = (
        "import sys; from typer.testing import CliRunner; from knowsub.cli import app; "
        "done = CliRunner().invoke(app, ['combine', '--help']); print(done.output); "
        "done = CliRunner().invoke(app, ['show', 'nofile']); assert 'no such' in done.output; "
        "done = CliRunner().invoke(app, ['score', './none', 'x', ' ']); assert done.exit_code; "
        "assert not {'torch', 'transformers', 'numpy', 'scipy'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "knowsub combine --intersection a.safetensors b.safetensors --out" in done.stdout
    assert all(name in call("--help").stdout for name in ("show", "compare", "remove", "predict"))


def test_show_describes_where_a_mask_lies(folder):
    found = ask("show", folder / "a.safetensors")
    assert (found["weights"], found["meta"]["target"]) == (5, "group a")
    assert found["groupings"]["matrix"]["groups"][0]["name"] == "block 1 mlp_out"
    text = call("show", folder / "a.safetensors").stdout
    assert "weights   5 of " in text
    assert text.index("block 1 mlp_out") < text.index("block 1 q")


def test_show_and_its_mistakes_import_nothing_that_takes_seconds(folder):
    heavy = ("torch", "transformers", "scipy.stats", "pandas", "mlflow", "hydra")
    program = (
        "import sys; from knowsub.cli import app; app(sys.argv[1:], standalone_mode=False)\n"
        f"print(*({set(heavy)} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "show", str(folder / "a.safetensors")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "weights   5 of " in done.stdout
    assert done.stdout.splitlines()[-1] == ""


def test_what_show_reads_without_torch_is_the_mask(folder, tmp_path):
    mask, found = load_mask(folder / "a.safetensors"), read_mask(folder / "a.safetensors")
    assert (found.model, found.meta) == (mask.model, mask.meta)
    assert all(np.array_equal(found.bits[name], bits) for name, bits in mask.bits.items())
    packed, header = read_checksummed(folder / "a.safetensors")
    for name, changes, message in [
        ("later", {"format": "knowsub-mask-2"}, "reads 'knowsub-mask-1'"),
        ("shape", {"shapes": {key: [9999] for key in header["shapes"]}}, "9999]"),
        ("long", {"shapes": {key: [1] for key in header["shapes"]}}, "of shape [1]"),
    ]:
        write_checksummed(tmp_path / name, packed, header | changes)
        assert message in call("show", tmp_path / name, code=1).stderr


def test_compare_counts_what_masks_share(folder):
    files = [folder / f"{name}.safetensors" for name in ("a", "half", "other")]
    found = ask("compare", *files)
    assert [pair["shared"] for pair in found["pairs"]] == [3, 1, 1]
    assert found["pairs"][0]["jaccard"] == pytest.approx(3 / 5)
    assert "1 & 2" in call("compare", *files).stdout
    assert call("compare", files[0], code=1).stderr.startswith("knowsub: compare needs two masks")


@pytest.mark.parametrize(
    ("rule", "subjects"),
    [("union", {*A, "b0"}), ("intersection", {"a0"}), ("floral", {"a0", "a1", "a2"}),
     ("difference", {"a3", "a4"})],
)  # fmt: skip
def test_combine_writes_a_mask_of_the_same_model(folder, tmp_path, rule, subjects):
    files = [folder / f"{name}.safetensors" for name in ("a", "half", "other")]
    out = tmp_path / "deep" / "combined.safetensors"
    found = ask("combine", f"--{rule}", *files, "--out", out)
    expected = fact_mask(built_model(), sorted(subjects))
    written = load_mask(out)
    assert found["weights"] == len(subjects)
    assert all(torch.equal(bits, expected.bits[name]) for name, bits in written.bits.items())
    assert written.model == load_mask(files[0]).model


def test_combine_needs_one_rule_and_overwrites_only_when_forced(folder, tmp_path):
    files, out = [folder / "a.safetensors", folder / "half.safetensors"], tmp_path / "m.safetensors"
    assert "not none" in call("combine", *files, "--out", out, code=1).stderr
    both = call("combine", "--union", "--floral", *files, "--out", out, code=1)
    assert "not --union, --floral" in both.stderr
    out.write_text("mine")
    assert (
        "--force overwrites it" in call("combine", "--union", *files, "--out", out, code=1).stderr
    )
    assert out.read_text() == "mine"
    call("combine", "--union", *files, "--out", out, "--force")
    assert load_mask(out).size == 5


def test_the_model_written_by_remove_is_the_one_in_memory(folder, tmp_path):
    out = tmp_path / "without"
    found = ask("remove", folder / "model", folder / "a.safetensors", "--out", out)
    assert found["weights"] == 5
    model = built_model()
    tokens = torch.arange(12).view(2, 6)
    reloaded = AutoModelForCausalLM.from_pretrained(out).eval()
    with (
        torch.no_grad(),
        ablated(model, maskable_matrices(model), load_mask(folder / "a.safetensors")),
    ):
        assert torch.equal(reloaded(tokens).logits, model(tokens).logits)
    written = AutoTokenizer.from_pretrained(out)
    assert identity(reloaded, written) == found["fingerprint"]
    assert written("kind a0")["input_ids"]
    assert "group a" in (out / "README.md").read_text()


def test_remove_replaces_a_model_when_forced_and_nothing_else_ever(folder, tmp_path):
    words = ["remove", folder / "model", folder / "a.safetensors", "--out"]
    out = tmp_path / "out"
    call(*words, out)
    first = sorted(path.name for path in out.iterdir())
    assert "exists already" in call(*words, out, code=1).stderr
    call(*words, out, "--force")
    assert sorted(path.name for path in out.iterdir()) == first
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("mine")
    assert "not a model folder" in call(*words, precious, "--force", code=1).stderr
    assert (precious / "thesis.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "precious"]


def test_predict_shows_answers_before_and_after_side_by_side(folder):
    words = ["predict", folder / "model", "--without", folder / "a.safetensors", "kind a0"]
    found = ask(*words, "--top", "3")["answers"]
    assert found["original"][0][0].strip() == "t0"
    assert found["remaining"][0][1] < found["original"][0][1]
    assert [len(pairs) for pairs in found.values()] == [3, 3]
    lines = call(*words).stdout.splitlines()
    assert "original" in lines[1]
    assert "remaining" in lines[1]
    assert list(ask("predict", folder / "model", "kind a0")["answers"]) == ["original"]


def test_score_gives_nll_and_rank_before_and_after(folder):
    words = ["score", folder / "model", "--without", folder / "a.safetensors", "kind a1", "t1"]
    found = ask(*words)["scores"]
    assert found["original"]["rank"] == 0
    assert found["remaining"]["nll"] > found["original"]["nll"] + 1
    assert "perplexity" in call(*words).stdout


def test_invalid_input_ends_with_one_line_and_code_1(folder, tmp_path):
    cases = [
        (["show", tmp_path / "none.safetensors"], "no such file"),
        (["show", folder / "model" / "config.json"], "config.json: not a"),
        (["predict", folder, "x"], "no config.json"),
        (["score", folder / "model", "", "t1"], "has no token"),
        (["predict", folder / "model", "kind " * 40], "the model takes 1 to 16"),
    ]
    for words, message in cases:
        error = call(*words, code=1).stderr
        assert message in error
        assert error.count("\n") == 1
        assert error.startswith("knowsub: ")


def test_all_mistakes_of_a_command_are_said_at_once(folder, tmp_path):
    mask, weights = folder / "a.safetensors", folder / "model" / "model.safetensors"
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mask.safetensors").write_bytes(mask.read_bytes())
    (tmp_path / "text").write_text("not a mask at all")
    cases = [
        (["show", weights], ["the weights of a model, not a mask"]),
        (["show", folder / "model"], ["a model's folder, not a mask"]),
        (["show", tmp_path / "run"], [f"the mask in it is {tmp_path / 'run/mask.safetensors'}"]),
        (["compare", tmp_path / "empty.safetensors", tmp_path / "text"],
         ["the file is empty", "text: not a mask"]),
        (["combine", weights, "--out", mask],
         ["needs one of --union", "two masks or more, not 1", "the weights", "exists already"]),
        (["remove", mask, folder / "model", "--out", tmp_path],
         ["a mask, not a model", "a model's folder, not a mask", "exists already"]),
        (["predict", "./none", "--without", tmp_path / "none", "x"],
         ["no such folder", "none: no such file"]),
        (["score", tmp_path / "model.json", "kind a0", " "],
         ["the stage pretrain writes it", "the answer ' ' is empty"]),
    ]  # fmt: skip
    for words, messages in cases:
        lines = call(*words, code=1).stderr.splitlines()
        assert len(lines) == len(messages), lines
        for line, message in zip(lines, messages, strict=True):
            assert line.startswith("knowsub: ")
            assert message in line


def test_a_written_model_can_be_read_by_whom_the_umask_says(folder, tmp_path):
    before = os.umask(0o022)
    try:
        call("remove", folder / "model", folder / "a.safetensors", "--out", tmp_path / "out")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o644}


def test_a_mask_of_another_model_is_refused(folder, tmp_path):
    mask = load_mask(folder / "a.safetensors")
    save_mask(Mask(mask.bits, "f" * 64, {}), tmp_path / "foreign.safetensors")
    words = ["predict", folder / "model", "--without", tmp_path / "foreign.safetensors", "kind a0"]
    assert "belongs to model ffffffffffff" in call(*words, code=1).stderr


def test_an_invalid_command_line_ends_with_code_2(folder):
    assert "No such option" in call("show", folder / "a.safetensors", "--colour", code=2).stderr
    call("remove", folder / "model", code=2)
