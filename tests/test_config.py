"""The configuration: what params.yaml may hold, its comments, and one line per mistake."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from knowsub.config import Params, load_params, read_params

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
    (
        "finetune.validation_share",
        "  validation.share: 0.1",
        "finetune.validation.share is not a known key; did you mean finetune.validation_share?",
    ),
    ("train.lr", "", "train.lr is missing"),
    ("train.lr", "  lr: fast", "train.lr: value 'fast' should be a number"),
    ("train.lr", "  lr: fast  # above 0", "train.lr: value 'fast' should be a number (above 0)"),
    ("train.lr", '  lr: "0.4"', "train.lr: value '0.4' should be a number"),
    ("train.lr", '  lr: "1e-3"', "train.lr: value '1e-3' should be a number"),
    ("train.lr", "  lr: -0.4", "train.lr: value -0.4 should be greater than 0"),
    ("train.lr", "  lr: 0", "train.lr: value 0 should be greater than 0"),
    ("train.lr", "  lr: .inf", "train.lr: value .inf is read differently"),
    ("train.lr", "  lr: .nan", "train.lr: value .nan is read differently"),
    ("train.lr", "  lr: 1e400", "train.lr: value inf should be a finite number"),
    ("train.lr", "  lr: 0,4", "train.lr: value '0,4' should be a number"),
    ("train.lr", "  lr:", "train.lr: value null should be a number"),
    ("train.lr", "  lr: [0.4]", "train.lr: value [0.4] should be a number"),
    ("train.lr", "  lr: true", "train.lr: value True should be a number"),
    ("train.lr", "  lr: on", "train.lr: value on is read differently"),
    ("train.lr", "  lr: 2026-01-01", "train.lr: value 2026-01-01 is read differently"),
    ("train.lr", "  lr: ${train.steps}", "train.lr: value '${train.steps}' refers to another"),
    ("train.lr", "  lr: 0.4\n  lr: 0.3", 'found duplicate key "lr"'),
    ("train.lr", "  lr: &rate 0.4", "train.lr: anchors, aliases and tags (& * !) are not allowed"),
    ("train.lr", "  lr: !!float 1", "train.lr: anchors, aliases and tags (& * !) are not allowed"),
    ("train.lr", "  <<: {lr: 1}", "value << is read differently"),
    ("train.steps", "  steps: 010", "train.steps: value 010 is read differently"),
    ("train.steps", "  steps: 0x10", "train.steps: value 0x10 is read differently"),
    ("train.steps", "  steps: 1_000", "train.steps: value 1_000 is read differently"),
    ("train.steps", "  steps: 1:30", "train.steps: value 1:30 is read differently"),
    ("train.steps", "  steps: 1e3", "train.steps: value 1000.0 should be a whole number"),
    ("train.steps", "  steps: 2.5", "train.steps: value 2.5 should be a whole number"),
    ("train.steps", "  steps: 0", "train.steps: value 0 should be greater than or equal to 1"),
    (
        "train.granularity",
        "  granularity: wieght",
        "train.granularity: value 'wieght' should be 'weight', 'input'",
    ),
    ("train.granularity", "  granularity: 3", "train.granularity: value 3 should be 'weight'"),
    ("train.modules", "  modules: [q, w]", "train.modules: value 'w' should be 'q', 'k'"),
    ("train.modules", "  modules: q", "train.modules: value 'q' should be a list in [ ]"),
    ("train.modules", "  modules: []", "train.modules: value [] should name at least one"),
    ("train.blocks", "  blocks: 2:9", "train.blocks: 2:9 reaches beyond the model's 4"),
    ("train.blocks", '  blocks: "2:9"', "train.blocks: 2:9 reaches beyond the model's 4"),
    ("train.blocks", '  blocks: "3:1"', "train.blocks: value '3:1' is not allowed"),
    ("train.blocks", "  blocks: top", "train.blocks: value 'top' is not allowed"),
    ("train.block_tokens", "  block_tokens: 4096", "use at most pretrain.context, 128"),
    ("track.artifacts", "  artifacts: yes", "track.artifacts: value yes is read differently"),
    ("track.artifacts", "  artifacts: off", "track.artifacts: value off is read differently"),
    ("track.artifacts", "  artifacts: 1", "track.artifacts: value 1 should be true or false"),
    ("track.experiment", "  experiment: ' '", "track.experiment: value ' ' is not allowed"),
    ("track.experiment", "  experiment: 7.5", "track.experiment: value 7.5 should be text"),
    ("track.model", "  model: yes", "track.model: value yes is read differently"),
    ("track.register", "  register: a/b", "track.register: value 'a/b' is not allowed"),
    ("machine.device", "  device: gpu", "machine.device: value 'gpu' should be 'auto', 'cpu'"),
    ("machine.threads", "  threads: -1", "machine.threads: value -1 should be greater than"),
    ("machine.memory_gb", "  memory_gb: 0", "machine.memory_gb: value 0 should be greater than 0"),
    ("targets", "targets: building.n.01", "targets: value 'building.n.01' should be a list"),
    ("targets", "targets: []", "targets: value [] should name at least one"),
    ("targets", "targets: [a/b]", "targets: value 'a/b' is not allowed"),
    ("targets", "targets: [1.5]", "targets: value 1.5 should be text"),
    (
        "targets",
        "targets: [buildng.n.01]",
        "targets: value 'buildng.n.01' is not a noun synset; did you mean building.n.01?",
    ),
    ("seeds", "seeds: [0, 0]", "seeds: value [0, 0] names one twice"),
    ("seeds", "seeds: [-1]", "seeds: value -1 should be greater than or equal to 0"),
    ("seeds", "seeds: [99999999999]", "should be less than or equal to 4294967295"),
    ("seeds", "seeds: [a]", "seeds: value 'a' should be a whole number"),
    ("seeds", "seeds: {a: 0}", "seeds: value {'a': 0} should be a list"),
    ("seeds", "seed: [0]", "seed is not a known key; did you mean seeds?"),
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
    error = str(caught.value)
    assert message in error
    assert "\n" not in error
    assert error.startswith("params.yaml")
    number = next(i for i, row in enumerate(text.splitlines(), 1) if row.startswith("  lr: 0.25"))
    if key == "train.lr" and line and "duplicate" not in message:
        assert error.startswith(f"params.yaml line {number}: ")


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file(
    text: str, tmp_path: Path
) -> None:
    path = tmp_path / "params.yaml"
    wrong = edited(edited(text, "machine.threads", "  threads: -1"), "train.lr", "  lrr: 1")
    path.write_text(edited(wrong, "seeds", "seeds: [a, 1.5]"), encoding="utf-8")
    with pytest.raises(ValueError, match="seeds") as caught:
        load_params(path=path)
    assert [
        line.partition(" (")[0].split(": ", 1)[1] for line in str(caught.value).splitlines()
    ] == [
        "seeds: value 'a' should be a whole number",
        "seeds: value 1.5 should be a whole number",
        "train.lrr is not a known key; did you mean train.lr?",
        "machine.threads: value -1 should be greater than or equal to 0",
    ]


def test_ambiguous_values_are_reported_at_once_too(text: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    wrong = edited(edited(text, "machine.threads", "  threads: 02"), "seeds", "seeds: [on, 1_0]")
    path.write_text(wrong, encoding="utf-8")
    with pytest.raises(ValueError, match="seeds") as caught:
        load_params(path=path)
    assert len(str(caught.value).splitlines()) == 3


def test_a_file_with_nothing_right_is_reported_in_few_lines(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("".join(f"key{number}: 1\n" for number in range(50)), encoding="utf-8")
    with pytest.raises(ValueError, match="more mistakes") as caught:
        load_params(path=path)
    assert len(str(caught.value).splitlines()) == 21


NF4 = [
    "pretrain.model=./m", "pretrain.nf4_blocks=lower_half", "test.relearning=false",
    "test.relearning_methods=[lora]",
]  # fmt: skip
"""What keeps the lower half of a pretrained model in 4 bits."""

CONFLICTS = [
    (["prepare.validation_share=0.46", "prepare.heldout_share=0.46"], "at most 0.9 together"),
    (["prepare.text_test_share=0.5", "prepare.text_validation_share=0.5"], "at most 0.9 together"),
    (["prepare.extra_targets=[a,a]"], "prepare.extra_targets: value ['a', 'a'] names one twice"),
    (["prepare.source_folder=x"], "prepare.source_folder: value 'x' is not allowed; use empty"),
    (["prepare.fact_source=table"], "prepare.source_folder: value '' is not allowed; use the fold"),
    (["verbalize.article=false"], "verbalize.article: value False is not allowed; use true where"),
    (["verbalize.test_families=[]"], "verbalize.test_families: value [] is not allowed"),
    (["verbalize.train_families=[]"], "verbalize.train_families: value [] is not allowed"),
    (["verbalize.validation_families=[]"], "verbalize.validation_families: value [] is not allo"),
    (["verbalize.test_families=[kind]"], "verbalize.train_families: value ['kind'] is not allowed"),
    (["verbalize.train_families=[kind,kind]"], "use each family in one role, once"),
    (["pretrain.nf4_blocks=upper_half"], "pretrain.nf4_blocks: value 'upper_half' is not allowed"),
    (["pretrain.nf4_blocks=lower_half"], "use none for model: embedded, which is small"),
    ([*NF4, "pretrain.nf4_blocks=2-2"], "use none, lower_half, or first-end such as 0-16"),
    ([*NF4, "train.blocks=2-4"], "pretrain.nf4_blocks: value 'lower_half' is not allowed; use l"),
    ([*NF4, "pretrain.nf4_blocks=0-2"], "use lower_half beside train.blocks: upper_half, or numbe"),
    ([*NF4, "pretrain.nf4_blocks=0-3", "train.blocks=2-4"], "or numbers that it, 2-4, lacks"),
    ([*NF4, "test.relearning=true"], "test.relearning: value True is not allowed; use false with"),
    ([*NF4, "test.relearning_methods=[lora,full]"], "test.relearning_methods: value ['lora', 'fu"),
    ([*NF4, "finetune.trainable_blocks=all"], "finetune.trainable_blocks: value 'all' is not all"),
    (["pretrain.heads=3"], "pretrain.heads: value 3 is not allowed; use a divisor of width, 128"),
    (["pretrain.block_tokens=129"], "pretrain.block_tokens: value 129 is not allowed; use at most"),
    (["pretrain.warmup=0.6", "pretrain.decay=0.5"], "at most 1 together"),
    (["train.grad_accumulation=17"], "train.grad_accumulation: value 17 is not allowed; use at mo"),
    (["train.causal_shift=false"], "train.causal_shift: value False is not allowed"),
    (["test.random_text_masks=101"], "test.random_text_masks: value 101 is not allowed; use at m"),
    (["finetune.adaptations=[head,head]"], "finetune.adaptations: value ['head', 'head'] names"),
    (["finetune.questions=files"], "finetune.question_folder: value '' is not allowed; use a fold"),
    (["report.thresholds.sparsity='0.98'"], "report.thresholds.sparsity: value '0.98' is not all"),
    (["+report.thresholds.near_acuracy='>= 1'"], "thresholds.near_acuracy is no metric (did you"),
]


@pytest.mark.parametrize(("overrides", "message"), CONFLICTS, ids=[row[1] for row in CONFLICTS])
def test_values_that_do_not_fit_together_are_refused_by_key(
    overrides: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=r"params\.yaml with") as caught:
        load_params(overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_that_fit_together_are_allowed() -> None:
    none = [f"verbalize.{role}_families=[]" for role in ("train", "validation", "test")]
    assert load_params(["verbalize.role_assignment=best", *none]).verbalize.train_families == []
    files = load_params(["finetune.questions=files", "finetune.question_folder=x"])
    assert files.finetune.question_folder == "x"
    table = load_params(["prepare.fact_source=table", "prepare.source_folder=x", "targets=[x]"])
    assert table.prepare.source_folder == "x"


@cache
def schema() -> dict[str, dict[str, Any]]:
    """Return the JSON schema of every value by its dotted key."""
    whole = TypeAdapter(Params).json_schema()

    def resolved(part: dict[str, Any]) -> dict[str, Any]:
        name = part.get("$ref", "").rpartition("/")[2]
        return resolved(whole["$defs"][name]) if name else part

    def flat(part: dict[str, Any], prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, value in part["properties"].items():
            inner = resolved(value)
            if "properties" in inner:
                yield from flat(inner, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", inner | {"items": resolved(inner.get("items", {}))}

    return dict(flat(whole, ""))


def stated(comment: str) -> dict[str, Any]:
    """Return the part of a JSON schema that the last part of a comment states."""
    words = re.sub(r" \[[^\]]*\]$", "", comment).rpartition("; ")[2]
    start, of, inner = words.partition(" of ")
    if of and start == "map":
        return {"type": "object", "additionalProperties": stated(inner)}
    if of:
        least = {"one or more": {"minItems": 1}, "list": {}}[start]
        return {"type": "array", "items": stated(inner), **least}
    if words in WORDS:
        return WORDS[words]
    if "|" in words:
        return {"type": "string", "enum": [each.strip('"') for each in words.split(" | ")]}
    return {"type": "number", **bounds(words)}


WORDS = {
    "text": {"type": "string"},
    "text or empty": {"type": "string"},
    "true | false": {"type": "boolean"},
}


def bounds(words: str) -> dict[str, float]:
    """Return the bounds that `0..1` or `above 0, at most 10` state."""
    low, dots, high = words.partition("..")
    if dots:
        return {"minimum": float(low), "maximum": float(high)}
    parts = (part.rpartition(" ") for part in words.split(", "))
    return {SIGNS[sign]: float(number) for sign, _, number in parts}


SIGNS = {
    ">=": "minimum",
    "above": "exclusiveMinimum",
    "below": "exclusiveMaximum",
    "at most": "maximum",
}


def same_range(declared: dict[str, Any], said: dict[str, Any]) -> bool:
    """Return whether a JSON schema has the type and the range that a comment states."""
    kind = {"integer": "number"}.get(declared["type"], declared["type"])
    pattern = declared.get("pattern")
    if pattern and "enum" in said:  # a form, with examples of it
        examples = [each.replace("first-end", "2-4").replace("x", "0.98") for each in said["enum"]]
        return all(re.search(pattern, each) for each in examples) and not re.search(pattern, "x y")
    names = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "enum", "minItems")
    inner = "items" if kind == "array" else "additionalProperties" if kind == "object" else ""
    return (
        kind == said["type"]
        and all(declared.get(name) == said.get(name) for name in names)
        and (not inner or same_range(declared[inner], said[inner]))
    )


def test_every_field_stands_in_params_yaml_and_every_key_is_a_field(text: str) -> None:
    values = yaml.safe_load(text)
    keys = {
        f"{section}.{name}" if isinstance(values[section], dict) else section
        for section in values
        for name in (values[section] if isinstance(values[section], dict) else [""])
    }
    assert keys == set(schema())


def test_the_comment_of_a_key_states_the_range_that_the_schema_has(text: str) -> None:
    places = read_params(text, "params.yaml").places
    wrong = [key for key, part in schema().items() if not same_range(part, stated(places[key][1]))]
    assert not wrong


def beyond(part: dict[str, Any]) -> list[Any]:
    """Return values just outside a range of numbers, in a list for a list."""
    if part["type"] == "array":
        return [[value] for value in beyond(part["items"])]
    step = 1 if part["type"] == "integer" else 1e-9
    low = [part["minimum"] - step] if "minimum" in part else []
    high = [part["maximum"] * (1 + 1e-9) + step] if "maximum" in part else []
    ends = [part[name] for name in ("exclusiveMinimum", "exclusiveMaximum") if name in part]
    return [int(value) if step == 1 else value for value in (*low, *high, *ends)]


def test_every_value_beyond_its_range_is_refused_by_its_key(text: str) -> None:
    adapter, tried = TypeAdapter(Params), 0
    shipped = json.dumps(yaml.safe_load(text))
    for key, part in schema().items():
        for value in beyond(part):
            tree = json.loads(shipped)
            *section, name = key.split(".")
            (tree[section[0]] if section else tree)[name] = value
            with pytest.raises(ValidationError) as caught:
                adapter.validate_json(json.dumps(tree))
            (mistake,) = caught.value.errors()
            assert ".".join(each for each in mistake["loc"] if isinstance(each, str)) == key
            assert mistake["type"].startswith(("greater_than", "less_than"))
            tried += 1
    assert tried > 130


WRONG_FILES = [
    (b"", "is not a mapping"),
    (b"- a\n", "is not a mapping"),
    (b"a: [1\n", "line 2: is not YAML"),
    (b"a:\tb: c\n", "line 1: is not YAML"),
    (b"a: \xff\n", "is not UTF-8"),
    (b"a: *b\n", "line 1: a: anchors, aliases and tags"),
    (b"a: &x [*x]\n", "line 1: a: anchors, aliases and tags"),
    (b"a: !!str 5\n", "line 1: a: anchors, aliases and tags"),
    (b"? [1]\n: 3\n", "a key is not text"),
    (b"a: " + b"9" * 5000, r"line 1: a: value 9+\.\.\. is read differently"),
    (b"a: " + b"[" * 3000, "nested too deeply"),
    (b"a: " + b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
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
    with pytest.raises(ValueError, match="machine: value 'fast' should be a section of keys"):
        load_params(path=path)


WRONG_OVERRIDES = [
    ("train.lrr=1", "with train.lrr=1: train.lrr is not a known key; did you mean train.lr?"),
    ("trian.lr=1", "trian is not a known key; did you mean train?"),
    ("train.lr=fast", "params.yaml with train.lr=fast: train.lr: value 'fast' should be a number"),
    ("train.lr", "override train.lr: "),
    ("train.lr=[1", "override train.lr=[1: "),
    ("train.lr=1,2", "override train.lr=1,2: Ambiguous value"),
    ("seeds.9=1", "override seeds.9=1: "),
    ("=1", "override =1: "),
    ("hydra.run.dir=x", "override hydra.run.dir=x: hydra is not a known key"),
    ("+train.more=1", "train.more is not a known key"),
    ("+train.lr=1", "override +train.lr=1: Could not append"),
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
    assert re.fullmatch(
        r"params\.yaml line \d+: train\.lrr is not a known key; did you mean train\.lr\?\n",
        done.stderr,
    )
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
    return f"{target!r} {seed + 1} {os.environ['OMP_NUM_THREADS']} {os.environ['OMP_WAIT_POLICY']}"

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
    assert done.stderr.startswith(f"sample: 'building.n.01' 5 {threads} passive (")


def test_threads_of_a_stage_give_up_their_core_while_they_wait_unless_told_otherwise(
    tmp_path: Path,
) -> None:
    done = stage(tmp_path, "building.n.01", "4", OMP_WAIT_POLICY="active")
    assert " active (" in done.stderr


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


@pytest.mark.parametrize(
    ("nf4", "masked"), [("lower_half", "upper_half"), ("0-2", "2-4"), ("3:4", "0:3")]
)
def test_blocks_in_nf4_are_allowed_next_to_masked_ones(nf4: str, masked: str) -> None:
    chosen = [f"pretrain.nf4_blocks='{nf4}'", f"train.blocks='{masked}'"]
    assert load_params([*NF4, *chosen]).pretrain.nf4_blocks == nf4
    curves = ["test.relearning_curves=false", "test.relearning_methods=[full]"]
    assert load_params([*NF4, *chosen, *curves])
    tuned = ["finetune.trainable_blocks=all", "finetune.adaptations=[head,lora]"]
    assert load_params([*NF4, *chosen, *tuned])
