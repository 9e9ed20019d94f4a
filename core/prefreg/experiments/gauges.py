"""What is read of a composition, prompt by prompt: metrics, margins, rewards, choices, tasks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prefreg.evaluation.choices import Question, is_right
from prefreg.flows.measuring.candidates import Candidate
from prefreg.flows.measuring.evaluator import Evaluator
from prefreg.flows.measuring.extras import measure_choices, measure_tasks

Column = list[float | None]
"""A value a prompt; None does not count."""
Read = Callable[[Candidate], Column]


@dataclass(frozen=True, slots=True)
class Gauge:
    """A quantity that is read of every prompt, pair or question of a composition."""

    name: str
    unit: str
    groups: tuple[str, ...]
    read: Read
    chance: float | None = None
    """What guessing would reach."""


def answer_gauges(evaluator: Evaluator) -> dict[str, Gauge]:
    """Return what sampled answers and held-out pairs show: every axis, rewards, KL, malformed."""
    found = [*_axes(evaluator), *_rewards(evaluator), *_answers(evaluator)]
    return {gauge.name: gauge for gauge in found}


def _axes(evaluator: Evaluator) -> Iterator[Gauge]:
    """Yield the metric of each axis, or the margin of its pairs where that counts no answer."""
    base = Candidate(evaluator.base, ())
    for name, axis in evaluator.axes.items():
        scored: list[float] = []
        if axis.metric is not None:
            read = evaluator.scores(axis, evaluator.answers(base))
            scored = [value for value in read if value is not None]
        if scored:
            shares = all(value in (0.0, 1.0) for value in scored)
            unit = "share of answers" if shares else "mean over answers"
            yield Gauge(name, unit, _groups(evaluator), _scores_of(evaluator, name))
        elif name in evaluator.pairs:
            kept = evaluator.pair_scores(base, name).kept
            groups = tuple(evaluator.pairs[name].groups[place] for place in kept)
            yield Gauge(f"{name}.margin", "nats", groups, _margins_of(evaluator, name))


def _scores_of(evaluator: Evaluator, axis: str) -> Read:
    return lambda candidate: evaluator.scores(evaluator.axes[axis], evaluator.answers(candidate))


def _margins_of(evaluator: Evaluator, axis: str) -> Read:
    base = Candidate(evaluator.base, ())

    def read(candidate: Candidate) -> Column:
        before, after = (evaluator.pair_scores(each, axis) for each in (base, candidate))
        pairs = zip(before.chosen, before.rejected, after.chosen, after.rejected, strict=True)
        return [(c - a) - (d - b) for a, b, c, d in pairs]

    return read


def _rewards(evaluator: Evaluator) -> Iterator[Gauge]:
    for model in evaluator.request.reward_models:

        def read(candidate: Candidate, model: str = model) -> Column:
            answers = evaluator.answers(candidate)
            return list(evaluator.extras.reward(evaluator, model, candidate, answers))

        yield Gauge(f"reward.{model.rpartition('/')[2]}", "score", _groups(evaluator), read)


def _answers(evaluator: Evaluator) -> Iterator[Gauge]:
    def kl(candidate: Candidate) -> Column:
        return list(evaluator.answers(candidate).nats)

    def malformed(candidate: Candidate) -> Column:
        return [float(each.malformed) for each in evaluator.judge(evaluator.answers(candidate))]

    yield Gauge("kl", "nats per answer", _groups(evaluator), kl)
    yield Gauge("malformed", "share of answers", _groups(evaluator), malformed)


def _groups(evaluator: Evaluator) -> tuple[str, ...]:
    return tuple(each.group for each in evaluator.asked)


def choice_gauges(evaluator: Evaluator, questions: Sequence[Question]) -> dict[str, Gauge]:
    """Return a gauge for each source of questions: the share that is right, per character."""
    found = {}
    for source in dict.fromkeys(each.source for each in questions):
        places = [place for place, each in enumerate(questions) if each.source == source]
        asked = [questions[place] for place in places]
        chance = sum(1 / len(each.choices) for each in asked) / len(asked)

        def read(candidate: Candidate, places: Sequence[int] = places) -> Column:
            scored = measure_choices(evaluator, candidate, questions)
            return [is_right(questions[place], scored["nats"][place]) for place in places]

        def likely(candidate: Candidate, places: Sequence[int] = places) -> Column:
            scored = measure_choices(evaluator, candidate, questions)
            return [scored["nats"][place][0] / scored["tokens"][place][0] for place in places]

        groups = tuple(each.group for each in asked)
        if chance < 1:
            found[source] = Gauge(source, "share of questions", groups, read, chance)
        else:
            found[source] = Gauge(source, "nats per token", groups, likely)
    return found


def task_gauges(evaluator: Evaluator) -> dict[str, Gauge]:
    """Return a gauge for each metric of each task of lm-eval."""
    found = {}
    for task, metrics in measure_tasks(evaluator, Candidate(evaluator.base, ())).items():
        for metric, values in metrics.items():

            def read(candidate: Candidate, task: str = task, metric: str = metric) -> Column:
                return list(measure_tasks(evaluator, candidate)[task][metric])

            name = f"{task}.{metric}"
            groups = tuple(map(str, range(len(values))))
            found[name] = Gauge(name, "mean over documents", groups, read)
    return found
