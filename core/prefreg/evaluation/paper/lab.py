"""What every experiment works with: its folder, the vectors it needs, and what measures them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prefreg.axes.base_world import ChoiceQuestion
from prefreg.checkpoints import BaseModel, resolve_base
from prefreg.data.rendering import encode_prompt
from prefreg.errors import DataError
from prefreg.evaluation.candidates import Candidate
from prefreg.evaluation.choices import is_right
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.evaluator import Evaluator, measure_choices, measure_tasks, open_evaluator
from prefreg.evaluation.paper.findings import Drawn, Findings
from prefreg.evaluation.paper.run_folder import ReproduceRequest
from prefreg.evaluation.plots import Curve, draw_curves
from prefreg.evaluation.statistics import Estimate, grouped_mean, grouped_rate, over_seeds
from prefreg.models.loading import load_limits, load_tokenizer
from prefreg.progress import Progress, progress_of
from prefreg.registry import VersionRecord
from prefreg.registry.access import Access
from prefreg.registry.upkeep import copy_version
from prefreg.terms import Term
from prefreg.training.add_axis import Prepared, add_prepared, prepare
from prefreg.training.axis_request import AxisRequest
from prefreg.training.earlier import find_stored

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


def choice_gauges(evaluator: Evaluator, questions: Sequence[ChoiceQuestion]) -> dict[str, Gauge]:
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


Etas = Mapping[str, float]
"""A setting of the dials, by axis; those that are missing are at 0."""


@dataclass(slots=True)
class Measuring:
    """The vectors of several seeds on one loaded base, and the gauges that read it."""

    evaluator: Evaluator
    vectors: Mapping[tuple[str, int], VersionRecord]
    seeds: Sequence[int]
    progress: Progress | None
    gauges: Mapping[str, Gauge]
    _kept: dict[tuple[str, str], Column] = field(default_factory=dict)

    def own(self, axis: str) -> Gauge:
        """Return what an axis shall move: its own metric, else the margin of its pairs."""
        for name in (axis, f"{axis}.margin"):
            if name in self.gauges:
                return self.gauges[name]
        why = self.evaluator.missing.get(f"{axis}.margin", "its metric applies to no answer")
        raise DataError(f"Nothing measures {axis!r}: {why}. Give pairs with --data PACK.")

    def candidate(self, seed: int, etas: Etas) -> Candidate:
        """Return the composition of one seed's vectors."""
        turned = sorted((axis, eta) for axis, eta in etas.items() if eta)
        versions = tuple((eta, self.vectors[axis, seed]) for axis, eta in turned)
        return Candidate(self.evaluator.base, versions)

    def read(self, gauge: Gauge, seed: int, etas: Etas) -> Column:
        """Return what a gauge reads of a setting, prompt by prompt."""
        candidate = self.candidate(seed, etas)
        key = (gauge.name, candidate.key)
        if key not in self._kept:
            self._kept[key] = gauge.read(candidate)
        return self._kept[key]

    def visit(self, settings: Sequence[Etas]) -> None:
        """Measure every setting of every seed, with progress; afterwards reading costs nothing."""
        wanted = [(seed, etas) for seed in self.seeds for etas in settings]
        for done, (seed, etas) in enumerate(wanted, 1):
            for gauge in self.gauges.values():
                self.read(gauge, seed, etas)
            if self.progress is not None:
                self.progress("measuring", done, len(wanted))

    def value(self, gauge: Gauge, etas: Etas) -> Estimate | None:
        """Estimate a figure of a setting, over seeds and prompts."""
        return self.contrast(gauge, [(1.0, etas)])

    def contrast(self, gauge: Gauge, parts: Sequence[tuple[float, Etas]]) -> Estimate | None:
        """Estimate a weighted sum over settings, paired by prompt; None where too little counts.

        With one seed the interval is over prompts alone, for this φ.
        """
        columns = []
        for seed in self.seeds:
            total = np.zeros(len(gauge.groups))
            for weight, etas in parts:
                read = self.read(gauge, seed, etas)
                total += weight * np.array([np.nan if v is None else v for v in read])
            columns.append(total)
        return estimate(columns, gauge.groups)

    def by_seed(self, gauge: Gauge, etas: Etas) -> list[float]:
        """Return the mean of each seed."""
        found = []
        for seed in self.seeds:
            read = [v for v in self.read(gauge, seed, etas) if v is not None]
            found.append(float(np.mean(read)) if read else float("nan"))
        return found

    @property
    def over(self) -> str:
        """Say what the intervals are over."""
        if len(self.seeds) == 1:
            return "over groups of prompts, for this φ"
        return "over training seeds and groups of prompts"

    def describe(self) -> str:
        """Say what is asked, and what the intervals are of."""
        asked = self.evaluator.asked
        groups = len({each.group for each in asked})
        return (
            f"{len(asked)} prompts in {groups} groups, one answer each at temperature 1; "
            f"intervals: 95 %, {self.over}."
        )


def estimate(columns: Sequence[NDArray[np.float64]], groups: Sequence[str]) -> Estimate | None:
    """Estimate the mean of what was read for each seed on the same prompts.

    Only prompts that count for every seed are taken. None where they are too few.
    """
    table = np.stack(columns)
    counted: NDArray[np.bool_] = np.all(np.isfinite(table), axis=0)
    kept = [group for group, used in zip(groups, counted, strict=True) if used]
    if not kept:
        return None
    try:
        if len(table) > 1:
            return over_seeds([row[counted] for row in table], kept)
        values = table[0][counted]
        if np.isin(values, (0.0, 1.0)).all():
            return grouped_rate([bool(value) for value in values], kept)
        return grouped_mean(values, kept)
    except DataError:
        return None


Vectors = Mapping[tuple[str, int], VersionRecord]
"""By axis and seed."""


@dataclass(slots=True)
class Laboratory:
    """An experiment's request with the registries that it reads and writes."""

    request: ReproduceRequest
    axes: tuple[str, ...]
    given: Access
    """Where vectors may be already."""
    folder: Path
    note: Callable[[str], None]
    progress: Progress | None
    base: BaseModel = field(init=False)
    own: Access = field(init=False)
    """The registry in the folder, which has every vector of the experiment."""
    trained: int = 0
    missed: list[str] = field(default_factory=list)
    """Guards that a vector missed; it is measured all the same."""

    def __post_init__(self) -> None:
        self.base = resolve_base(self.request.base)
        self.own = Access(self.folder / "registry.db")
        if self.request.data is not None and not (self.request.data / "prefs").is_dir():
            raise DataError(
                f"{self.request.data} is no pack of pairs: there is no folder 'prefs' in it, with "
                "AXIS/train.jsonl.gz and dev.jsonl.gz."
            )

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the training."""
        return self.request.seeds

    def axis_request(self, axis: str, seed: int, data: Path | None = None) -> AxisRequest:
        """Return how an axis is trained, on pairs of a file, of the pack or of its own source."""
        asked = self.request
        if data is None and asked.data is not None:
            data = self.pack_file(axis, "train")
        return AxisRequest(
            axis,
            base=asked.base,
            data=None if data is None else str(data),
            limit=asked.limit,
            seed=seed,
            preset=asked.preset,
            settings=asked.settings,
            lora=asked.lora,
            accept_licence=asked.accept_licence,
            # A guard that is missed is a finding, and no reason to stop.
            keep_anyway=True,
        )

    def pack_file(self, axis: str, split: str) -> Path:
        """Return a file of the pack."""
        assert self.request.data is not None
        path = self.request.data / "prefs" / axis / f"{split}.jsonl.gz"
        if not path.is_file():
            raise DataError(f"The pack has no pairs of {axis!r}: {path} is missing.")
        return path

    def vectors(self, axes: Sequence[str] | None = None) -> dict[tuple[str, int], VersionRecord]:
        """Find or train the vectors of axes for every seed."""
        found = {}
        for seed in self.seeds:
            for axis in axes or self.axes:
                request = self.axis_request(axis, seed)
                found[axis, seed] = self.obtain(prepare(self.own, request, None), request)
        return found

    def obtain(self, run: Prepared, request: AxisRequest) -> VersionRecord:
        """Find the version of a run in the folder or the given registry, else train it."""
        record = find_stored(self.own, run, request.seed)
        if record is None and (known := find_stored(self.given, run, request.seed)):
            reference = (known.axis, str(known.number))
            target = self.folder / "registry.db"
            record = copy_version(self.given, reference, target, renumber=True).record
            self.note(f"Took {known} of the registry, seed {request.seed}.")
        if record is None:
            name = f"{run.installed.axis.name}, seed {request.seed}"
            self.note(f"Training {name} …")
            record = add_prepared(self.own, run, request, progress_of(self.progress, name))
            self.trained += 1
        for pole, kept in (record.metadata.get("poles") or {}).items():
            for failure in kept.get("failures") or ():
                value, limit = failure["value"], failure["threshold"]
                what = f"{failure['figure']} {value:.3g}, threshold {limit:.3g}"
                self.missed.append(f"{record}, {pole} pole: {what}")
        return record

    def measure(
        self,
        vectors: Vectors,
        files: Mapping[str, Path] | None = None,
        gauges: Callable[[Evaluator], dict[str, Gauge]] = answer_gauges,
    ) -> Measuring:
        """Open what measures compositions of vectors, scored along their axes.

        The pairs that are measured are those of `files`, else of the pack or the axes' own.
        """
        asked = self.request
        scored = tuple(dict.fromkeys(axis for axis, _ in vectors))
        if files is None and asked.data is not None:
            files = {axis: self.pack_file(axis, "dev") for axis in scored}
        first = {axis: record for (axis, seed), record in vectors.items() if seed == self.seeds[0]}
        evaluator = open_evaluator(
            self.own,
            [Term(axis, 1.0, str(record.number)) for axis, record in first.items()],
            EvaluationRequest(
                base=asked.base,
                axes=scored,
                prompts=asked.prompts,
                max_new_tokens=asked.max_new_tokens,
                data=tuple(f"{axis}={path}" for axis, path in (files or {}).items()),
                reward_models=asked.reward_models,
                tasks=asked.tasks if asked.name == "commonsense" else (),
                task_limit=asked.task_limit,
                task_path=asked.task_path,
            ),
        )
        self._leave_long_prompts_out(evaluator)
        return Measuring(evaluator, vectors, self.seeds, self.progress, gauges(evaluator))

    def _leave_long_prompts_out(self, evaluator: Evaluator) -> None:
        """Ask only what leaves room for an answer; a pack is not made for one context."""
        context = load_limits(self.base)[0]
        if self.base.world is not None or context is None:
            return
        tokenizer = load_tokenizer(self.base)
        room = context - self.request.max_new_tokens
        asked = evaluator.asked
        evaluator.asked = [
            each for each in asked if len(encode_prompt(each.prompt, tokenizer)) <= room
        ]
        if left_out := len(asked) - len(evaluator.asked):
            self.note(f"{left_out} of {len(asked)} prompts are too long for the model's context.")

    def recipe(self, measured: Measuring | None = None, more: str = "") -> str:
        """Say in a few sentences what was trained and asked."""
        names = ", ".join(map(str, self.seeds))
        seeds = f"seed {names}" if len(self.seeds) == 1 else f"seeds {names}"
        data = "the pack's pairs" if self.request.data else "the default source of each axis"
        if self.base.world is not None and not self.request.data:
            data = f"{self.base.world.name}'s rows"
        said = f"{self.base.name}; {', '.join(self.axes)} trained on {data}, {seeds}."
        if measured is not None:
            said += f" {measured.describe()}"
        return f"{said} {more}".strip()


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves that share a vertical axis."""

    unit: str
    curves: Sequence[Curve]


def add_curves(
    found: Findings,
    lab: Laboratory,
    panels: Mapping[str, Panel],
    *,
    title: str,
    legend: str,
    across: str = "η of {}",
) -> None:
    """Draw a panel for each title, unless no curve of it has a point, with the recipe below."""
    full = {
        name: Panel(panel.unit, kept)
        for name, panel in panels.items()
        if (kept := [curve for curve in panel.curves if curve.points])
    }
    if not full:
        found.notes.append(f"There is no picture of {title!r}: too few prompts count.")
        return
    path = lab.folder / f"{lab.request.name}.png"
    draw_curves(
        {name: panel.curves for name, panel in full.items()},
        path,
        title=title,
        caption=found.recipe,
        units={name: panel.unit for name, panel in full.items()},
        across=across,
    )
    found.pictures.append(Drawn(path, title, legend))
