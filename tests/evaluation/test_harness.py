import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from prefreg.evaluation.harness import add_tasks

from prefreg import DataError, UsageError, pocket
from prefreg.evaluation.figures import Sheet
from prefreg.evaluation.knowledge import require_tasks, run_tasks

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
    sheet = Sheet.empty()
    add_tasks(sheet, found, again)
    figure = sheet.finish().find("task.village.acc")
    assert figure is not None
    assert (figure.change.value, figure.groups) == (0, 6)


@needs_lm_eval
def test_what_lm_eval_raises_is_told_in_one_line(tasks: Path) -> None:
    (tasks / "village.jsonl").unlink()
    with pytest.raises(DataError, match="lm-eval failed on village"):
        run_tasks(None, None, ["village"], folder=tasks)  # type: ignore[arg-type]


def test_tasks_are_paired_by_document() -> None:
    sheet = Sheet.empty()
    base = {"t": {"acc": [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]}}
    turned = {"t": {"acc": [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]}}
    add_tasks(sheet, base, turned)
    figure = sheet.finish().find("task.t.acc")
    assert figure is not None
    assert figure.change.value == pytest.approx(0.5)
