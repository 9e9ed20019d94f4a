"""Knowledge retention: multiple choice at η up to 8."""

from prefreg.errors import DataError
from prefreg.evaluation.choices import pocket_questions, pocket_replies, read_questions
from prefreg.experiments.dosage import measure_dosage
from prefreg.experiments.findings import Findings
from prefreg.experiments.gauges import choice_gauges
from prefreg.experiments.laboratory import Laboratory


def run(lab: Laboratory) -> Findings:
    """Ask what the base knows along every vector, and where that falls to chance.

    Raises:
        DataError: The base is not the bundled model and there are no questions for it.
    """
    file = lab.request.questions
    if file is not None:
        questions = read_questions(file)[: lab.request.prompts]
    elif lab.on_pocket:
        replies = pocket_replies(lab.request.prompts, split="test", seed=0)
        questions = [*pocket_questions(), *replies]
    else:
        raise DataError(
            f"What {lab.base.name} knows is not known here: give multiple-choice questions with "
            "--questions FILE.jsonl."
        )
    vectors = lab.vectors()
    measured = lab.measure(vectors, gauges=lambda evaluator: choice_gauges(evaluator, questions))
    asked = f"{len(questions)} questions, scored by log-likelihood."
    return measure_dosage(lab, measured, asked)
