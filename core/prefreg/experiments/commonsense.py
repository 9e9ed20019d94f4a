"""Commonsense: tasks of lm-eval at η up to 8."""

import importlib.util

from prefreg.errors import DataError
from prefreg.evaluation.harness import require_tasks
from prefreg.experiments.dosage import measure_dosage
from prefreg.experiments.findings import Findings
from prefreg.experiments.gauges import task_gauges
from prefreg.experiments.laboratory import Laboratory


def run(lab: Laboratory) -> Findings:
    """Run the tasks along every vector.

    Raises:
        DataError: lm-eval is not installed, or a data set of a task could not be had.
        UsageError: lm-eval has no such task.
    """
    asked = lab.request
    if importlib.util.find_spec("lm_eval") is None:
        raise DataError(
            "The experiment 'commonsense' needs lm-eval: pip install 'prefreg[lm-eval]'. "
            "'retention' asks multiple-choice questions of a file without it."
        )
    require_tasks(asked.tasks, asked.task_path)
    measured = lab.measure(lab.vectors(), gauges=task_gauges)
    tasks = ", ".join(asked.tasks)
    return measure_dosage(lab, measured, f"lm-eval on {tasks}.")
