import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefreg import DataError, Message, UsageError, pocket
from prefreg.axes.base_world import ChoiceQuestion
from prefreg.evaluation.figures import Figures, measure_figures
from prefreg.evaluation.knowledge import (
    choice_metrics,
    fingerprint_questions,
    read_questions,
    require_tasks,
    run_tasks,
    score_choices,
    task_metrics,
)
from prefreg.evaluation.statistics import rate

ROW = {"question": "Where is it?", "choices": ["here", "there", "elsewhere"], "answer_index": 1}


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(pocket.model_dir()).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(pocket.model_dir())


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def compared(questions: list[ChoiceQuestion], base: Any, turned: Any) -> Figures:
    """Measure what was scored of both sides."""
    scored = {"base": base, "turned": turned}.__getitem__
    metrics = choice_metrics(questions, scored, prefix="retention.", unnormalised=True)
    return measure_figures(metrics, "base", "turned")


def tasks_compared(base: Any, turned: Any) -> Figures:
    scored = {"base": base, "turned": turned}.__getitem__
    return measure_figures(task_metrics(scored, "base", prefix="task."), "base", "turned")


def kept(count: int) -> list[ChoiceQuestion]:
    return pocket.PocketWorld().kept_questions(count, split="test", seed=0)


def test_questions_of_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "mc.jsonl", ROW, {**ROW, "source": "piqa", "group": 3})
    first, second = read_questions(path)
    assert (first.source, first.answer, first.group) == ("mc", 1, "1")
    assert (second.source, second.group) == ("piqa", "3")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"question": " "}, "'question' is no text"),
        ({"choices": ["one"]}, "no list of two or more"),
        ({"choices": "one"}, "no list of two or more"),
        ({"choices": ["one", ""]}, "no list of two or more"),
        ({"answer_index": 3}, "'answer_index' is 3"),
        ({"answer_index": True}, "'answer_index' is True"),
        ({"answer_index": "1"}, "'answer_index' is '1'"),
        ({"source": 4}, "'source' is no text"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    path = write(tmp_path / "mc.jsonl", ROW, ROW | changes)
    with pytest.raises(DataError, match=rf"mc\.jsonl:2: .*{reason}"):
        read_questions(path)


def test_a_choice_has_the_likelihood_of_its_tokens(model: Any, tokenizer: Any) -> None:
    prompt = (Message("user", "Which colour is Mara's boat?"),)
    choices = ("Mara's boat is grey.", "Red.", "It is green.")
    found = score_choices(model, tokenizer, [ChoiceQuestion(prompt, choices, 0, "facts", "a")])
    head = tokenizer.apply_chat_template(
        [prompt[0]._asdict()], add_generation_prompt=True, tokenize=False
    )
    start = tokenizer(head, add_special_tokens=False)["input_ids"]
    for choice, nats, count in zip(choices, found["nats"][0], found["tokens"][0], strict=True):
        ids = tokenizer(choice, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            scores = model(torch.tensor([start + ids])).logits[0].log_softmax(1)
        expected = sum(float(scores[len(start) - 1 + at, id]) for at, id in enumerate(ids))
        assert nats == pytest.approx(expected, abs=1e-3)
        assert count == len(ids)


def test_a_text_goes_on_after_its_question(model: Any, tokenizer: Any) -> None:
    question = ChoiceQuestion("Mara's boat is", ("red .", "a boat"), 0, "mc", "a")
    found = score_choices(model, tokenizer, [question, question])
    assert found["nats"][0] == pytest.approx(found["nats"][1])
    assert all(value < 0 for value in found["nats"][0])


def test_a_question_longer_than_the_context_is_named(model: Any, tokenizer: Any) -> None:
    question = ChoiceQuestion("boat " * 300, ("a", "b"), 0, "mc", "a")
    with pytest.raises(DataError, match=r"does not fit the model's context of 256: 'boat boat"):
        score_choices(model, tokenizer, [question])


def test_the_bundled_model_knows_its_facts(model: Any, tokenizer: Any) -> None:
    questions = [each for each in kept(0) if each.source == "facts"][::8]
    found = score_choices(model, tokenizer, questions)
    known = compared(questions, found, found).find("retention.facts")
    assert known is not None
    assert known.value.value > 0.9
    assert known.change is not None
    assert known.change.value == 0


def side(*right: bool) -> dict[str, Any]:
    return {
        "nats": [[-1.0, -2.0] if hit else [-2.0, -1.0] for hit in right],
        "tokens": [[1, 1]] * len(right),
    }


def asked(count: int, *choices: str) -> list[ChoiceQuestion]:
    return [ChoiceQuestion("q", choices or ("a", "b"), 0, "mc", str(n)) for n in range(count)]


def test_what_the_base_does_not_know_is_not_measurable() -> None:
    base = side(*[n < 12 for n in range(20)])  # .6, of which the lower bound is .39
    missing = compared(asked(20), base, side(*[True] * 20)).missing
    assert "not measurable: the base is right in 0.60" in missing["retention.mc"]
    assert "chance is 0.50" in missing["retention.mc"]


def test_what_the_base_knows_is_compared_question_by_question() -> None:
    base, turned = side(*[n < 18 for n in range(20)]), side(*[n < 9 for n in range(20)])
    figure = compared(asked(20), base, turned).find("retention.mc")
    assert figure is not None
    assert (figure.value, figure.base) == (rate(9, 20), rate(18, 20))
    assert figure.change.value == pytest.approx(-0.45)
    assert figure.change.high < 0


def test_a_long_choice_is_not_wrong_for_being_long() -> None:
    questions = asked(20, "a much longer answer", "short")
    scores = {"nats": [[-4.0, -2.0]] * 20, "tokens": [[4, 1]] * 20}
    found = compared(questions, scores, scores)
    # Per character -.2 against -.4; as it is, -4 against -2.
    assert found.find("retention.mc").value.value == 1
    assert "not measurable" in found.missing["retention.mc_unnormalised"]


def test_held_out_replies_have_a_likelihood_per_token() -> None:
    questions = kept(20)[-20:]
    base = {"nats": [[-3.0]] * 20, "tokens": [[3]] * 20}
    turned = {"nats": [[-6.0]] * 20, "tokens": [[3]] * 20}
    figure = compared(questions, base, turned).find("retention.log_likelihood")
    assert (figure.base.value, figure.value.value) == (-1, -2)
    assert math.isclose(figure.change.high, -1)


def test_questions_are_known_by_their_words() -> None:
    assert fingerprint_questions(asked(2)) == fingerprint_questions(asked(2))
    assert fingerprint_questions(asked(2)) != fingerprint_questions(asked(3))


needs_lm_eval = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="the extra lm-eval is not installed"
)
TASK = """
task: village
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
  - metric: acc_norm
"""


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Write a task of eight questions, as lm-eval describes tasks."""
    rows = [
        {"question": f"Where is boat {n}?", "choices": ["by the sea", "red"], "answer": n % 2}
        for n in range(8)
    ]
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "village.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "village.yaml").write_text(TASK.format(data=folder / "village.jsonl"))
    return folder


def test_without_the_extra_it_says_what_to_install() -> None:
    if importlib.util.find_spec("lm_eval") is not None:
        pytest.skip("the extra lm-eval is installed")
    with pytest.raises(UsageError, match=r"pip install 'prefreg\[lm-eval\]'"):
        require_tasks(["piqa"])


@needs_lm_eval
def test_an_unknown_task_gets_the_nearest(tasks: Path) -> None:
    require_tasks(["piqa", "village"], tasks)
    with pytest.raises(UsageError, match=r"no task 'villag'. Did you mean 'village'"):
        require_tasks(["villag"], tasks)


@needs_lm_eval
def test_tasks_run_on_the_model_in_memory(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    model: Any = AutoModelForCausalLM.from_pretrained(pocket.model_dir()).eval()
    tokenizer = AutoTokenizer.from_pretrained(pocket.model_dir())
    found = run_tasks(model, tokenizer, ["village"], folder=tasks, limit=6)
    assert found["village"].keys() == {"acc", "acc_norm"}
    assert len(found["village"]["acc"]) == 6
    assert sorted(set(found["village"]["acc"])) == [0.0, 1.0]
    again = run_tasks(model, tokenizer, ["village"], folder=tasks, limit=6)
    figure = tasks_compared(found, again).find("task.village.acc")
    assert figure is not None
    assert (figure.change.value, figure.groups) == (0, 6)


@needs_lm_eval
def test_what_lm_eval_raises_is_told_in_one_line(tasks: Path) -> None:
    (tasks / "village.jsonl").unlink()
    with pytest.raises(DataError, match="lm-eval failed on village"):
        run_tasks(None, None, ["village"], folder=tasks)  # type: ignore[arg-type]


def test_tasks_are_paired_by_document() -> None:
    base = {"t": {"acc": [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]}}
    turned = {"t": {"acc": [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]}}
    figure = tasks_compared(base, turned).find("task.t.acc")
    assert figure is not None
    assert figure.change.value == pytest.approx(0.5)
