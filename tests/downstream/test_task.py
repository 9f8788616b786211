"""CommonsenseQA from files in its real format to figures, on a tiny random model."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from knowsub.downstream.options import Adaptation, QuestionSource, Readout
from knowsub.downstream.questions import Group
from knowsub.downstream.results import summarise
from knowsub.downstream.runs import FinetuneContext, run_all
from knowsub.downstream.tasks import build_task
from knowsub.kg.facts import Split
from tests.architectures import tiny
from tests.downstream.setting import FIXTURE, options, some_mask, statement, words

THINGS = [f"w{number}" for number in range(2, 60)]


def bytes_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte a token."""
    alphabet = {letter: index for index, letter in enumerate(sorted(ByteLevel.alphabet()))}
    model = Tokenizer(BPE(alphabet, []))
    model.pre_tokenizer = ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=model)


def generated(folder: Path, train: int, test: int) -> Path:
    """Write a few hundred questions in the published format."""
    chooser = random.Random(0)
    for name, count in (("train_rand_split", train), ("dev_rand_split", test)):
        rows = []
        for number in range(count):
            concept, *texts = chooser.sample(THINGS, 6)
            choices = [
                {"label": label, "text": text} for label, text in zip("ABCDE", texts, strict=True)
            ]
            stem = f"{concept} {chooser.choice(THINGS)}"
            question = {"question_concept": concept, "choices": choices, "stem": stem}
            rows.append(
                {
                    "answerKey": chooser.choice("ABCDE"),
                    "id": f"{name}{number}",
                    "question": question,
                }
            )
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


@pytest.mark.parametrize("readout", list(Readout))
def test_commonsenseqa_runs_from_files_to_figures(tmp_path: Path, readout: Readout) -> None:
    folder = generated(tmp_path, 240, 60)
    ids = tmp_path / "facts.json"
    ids.write_text(json.dumps([{"id": f"dev_rand_split{number}"} for number in range(20)]))
    chosen = options(
        questions=QuestionSource.COMMONSENSEQA, question_folder=str(folder), target_questions=str(ids),
        readout=readout, steps=2, batch=16, adaptations=[Adaptation.HEAD, Adaptation.FULL],
    )  # fmt: skip
    task, model = build_task([], chosen), tiny("gpt2")
    masks = {"original": None, "remaining": some_mask(model), "random": some_mask(model, seed=1)}
    bench = FinetuneContext(model, words(), masks, chosen)
    study = run_all(bench, masks, task, chosen, tmp_path / "work", lambda run, points: None)
    found = summarise(study, task, chosen)
    assert found["questions"]["target"] == 20
    assert found["questions"]["other"] == 40
    assert found["questions"]["chance"] == pytest.approx(0.2)
    assert {row["adaptation"] for row in found["scores"]} == {"none", "head", "full"}
    assert 0 <= found["figures"]["head_target_accuracy"] <= 1


def test_questions_are_tied_to_the_target_facts_of_the_statements() -> None:
    told = [statement("kettle", "stove", Split.TARGET), statement("owl", "night", Split.TARGET)]
    told.append(statement("ferry", "river", Split.CONTROL_TRAIN))
    chosen = options(questions=QuestionSource.COMMONSENSEQA, question_folder=str(FIXTURE))
    task = build_task(told, chosen)
    tied = [each.fact for each in task.test if each.group is Group.TARGET]
    assert tied == ["kettle|answer|stove"]
    assert len(task.test) == 5
    assert not any(each.group is Group.TARGET for each in task.train + task.validation)


def test_real_questions_of_many_tokens_are_judged() -> None:
    chosen = options(questions=QuestionSource.FILES, question_folder=str(FIXTURE))
    told = [statement("ferry", "river", Split.TARGET)]
    task, model = build_task(told, chosen), tiny("llama")
    model.resize_token_embeddings(256)
    model.config.max_position_embeddings = 96
    bench = FinetuneContext(model, bytes_tokenizer(), {"original": None}, chosen)
    (encoded,) = bench.cache(bench.encode(task.test))
    assert len(bench.answers("original", {"test": encoded})["test"]) == 4


def test_the_wrong_folder_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere: needs train\.jsonl"):
        build_task([], options(questions=QuestionSource.FILES, question_folder="nowhere"))


def test_a_test_without_target_questions_is_refused() -> None:
    with pytest.raises(ValueError, match="none of the 4 test questions asks about a target fact"):
        build_task([], options(questions=QuestionSource.FILES, question_folder=str(FIXTURE)))
