"""Tasks of lm-eval on the model in memory; lm-eval is an extra that only this file needs."""

import difflib
import importlib.util
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefreg.axes.isolation import off_stdout
from prefreg.errors import DataError, UsageError, reason
from prefreg.evaluation.figures import Sheet, compare_values
from prefreg.evaluation.prompts import Asked

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Scores = dict[str, dict[str, list[float]]]
"""By task and metric, the value of each of its documents."""


def require_tasks(tasks: Sequence[str], folder: Path | None = None) -> None:
    """Check that lm-eval is there and knows the tasks."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UsageError("--tasks needs lm-eval: pip install 'prefreg[lm-eval]'.")
    known = _manager(tuple(tasks), folder).all_tasks
    for task in tasks:
        if task not in known:
            close = difflib.get_close_matches(task, known, n=1)
            meant = f" Did you mean {close[0]!r}?" if close else ""
            raise UsageError(f"lm-eval has no task {task!r}.{meant} `lm-eval ls tasks` lists them.")


def run_tasks(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    folder: Path | None = None,
    batch_size: int = 16,
) -> Scores:
    """Run tasks and return what each document scored, of every metric that has numbers."""
    try:
        with off_stdout():
            from lm_eval import simple_evaluate
            from lm_eval.models.huggingface import HFLM

            language_model = HFLM(
                pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size
            )
            found = simple_evaluate(
                model=language_model,
                tasks=list(tasks),
                limit=limit,
                bootstrap_iters=0,
                log_samples=True,
                task_manager=_manager(tuple(tasks), folder),
            )
    except Exception as error:  # it lets the errors of data sets and of the Hub through
        raise DataError(f"lm-eval failed on {', '.join(tasks)}: {reason(error)}") from error
    return {task: _columns(samples) for task, samples in found["samples"].items()}


def add_tasks(sheet: Sheet, base: Scores, turned: Scores) -> None:
    """Add every metric of every task, paired by document."""
    for task, metrics in turned.items():
        for metric, values in metrics.items():
            asked = [Asked("", str(place)) for place in range(len(values))]
            sides = (base[task][metric], values)
            make = partial(compare_values, unit="mean over documents", asked=asked, sides=sides)
            sheet.add(f"task.{task}.{metric}", make)


def _columns(samples: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    ordered = sorted(samples, key=lambda sample: sample["doc_id"])
    names = [name for name in ordered[0].get("metrics", ()) if name in ordered[0]]
    return {
        name: [float(sample[name]) for sample in ordered]
        for name in names
        if all(isinstance(sample[name], int | float) for sample in ordered)
    }


@lru_cache(maxsize=2)
def _manager(tasks: tuple[str, ...], folder: Path | None) -> Any:
    from lm_eval.tasks import TaskManager

    if folder is not None:
        # Reading the thousands of tasks that lm-eval brings takes seconds.
        own = TaskManager(include_path=str(folder), include_defaults=False)
        if {*tasks} <= {*own.all_tasks}:
            return own
    return TaskManager(include_path=None if folder is None else str(folder))
