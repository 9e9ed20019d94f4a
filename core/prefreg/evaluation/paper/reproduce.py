"""Run an experiment from its request to its folder; what was done before a kill is not repeated.

An experiment works with its folder, the vectors it needs, and figures over seeds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from prefreg.axes.plugins import find_axis
from prefreg.checkpoints import BaseModel, resolve_base
from prefreg.checkpoints.bundled import world_of
from prefreg.data.rendering import encode_prompt
from prefreg.errors import DataError, UsageError
from prefreg.evaluation.candidates import Candidate
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.evaluator import Evaluator, open_evaluator
from prefreg.evaluation.figures import Column, Metric
from prefreg.evaluation.paper import run_folder
from prefreg.evaluation.paper.catalogue import experiment_axes, find_experiment
from prefreg.evaluation.paper.run_folder import Findings, ReproduceRequest
from prefreg.evaluation.plots import Curve, Picture, draw_curves
from prefreg.evaluation.prompts import HeldOut
from prefreg.evaluation.seed_runs import find_or_train
from prefreg.evaluation.statistics import Estimate, grouped_mean, grouped_rate, over_seeds
from prefreg.models.loading import load_limits, load_tokenizer
from prefreg.progress import Progress, progress_of
from prefreg.registry import Access, VersionRecord
from prefreg.registry.transfer import copy_version
from prefreg.terms import Term
from prefreg.training.add_axis import prepare
from prefreg.training.axis_request import AxisRequest
from prefreg.training.axis_run import AxisRun

Etas = Mapping[str, float]
"""A setting of the dials, by axis; those that are missing are at 0."""
Place = TypeVar("Place")
Vectors = Mapping[tuple[str, int], VersionRecord]
"""By axis and seed."""


@dataclass(slots=True)
class SeedFigures:
    """Figures of compositions of the vectors of several seeds, with intervals over the seeds."""

    evaluator: Evaluator
    vectors: Vectors
    seeds: Sequence[int]
    progress: Progress | None
    metrics: Mapping[str, Metric]
    _kept: dict[tuple[str, str], Column] = field(default_factory=dict)

    def own(self, axis: str) -> Metric:
        """Return what an axis shall move: its own metric, else the margin of its pairs."""
        for name in (axis, f"{axis}.margin"):
            if name in self.metrics:
                return self.metrics[name]
        why = self.evaluator.missing.get(f"{axis}.margin", "its metric applies to no answer")
        raise DataError(f"Nothing measures {axis!r}: {why}. Give pairs with --data PACK.")

    def read(self, metric: Metric, seed: int, etas: Etas) -> Column:
        """Return what a metric reads of a setting of one seed's vectors."""
        turned = sorted((axis, eta) for axis, eta in etas.items() if eta)
        versions = tuple((eta, self.vectors[axis, seed]) for axis, eta in turned)
        candidate = Candidate(self.evaluator.base, versions)
        key = (metric.name, candidate.key)
        if key not in self._kept:
            self._kept[key] = metric.read(candidate)
        return self._kept[key]

    def visit(self, settings: Sequence[Etas]) -> None:
        """Measure every setting of every seed, with progress; afterwards reading costs nothing."""
        wanted = [(seed, etas) for seed in self.seeds for etas in settings]
        for done, (seed, etas) in enumerate(wanted, 1):
            for metric in self.metrics.values():
                self.read(metric, seed, etas)
            if self.progress is not None:
                self.progress("measuring", done, len(wanted))

    def value(self, metric: Metric, etas: Etas) -> Estimate | None:
        """Estimate a figure of a setting, over seeds and prompts."""
        return self.contrast(metric, [(1.0, etas)])

    def values(self, metric: Metric, settings: Mapping[Place, Etas]) -> dict[Place, Estimate]:
        """Estimate a figure of several settings, and leave out those of which too little counts."""
        found = {place: self.value(metric, etas) for place, etas in settings.items()}
        return {place: value for place, value in found.items() if value is not None}

    def contrast(self, metric: Metric, parts: Sequence[tuple[float, Etas]]) -> Estimate | None:
        """Estimate a weighted sum over settings, paired by prompt; None where too little counts.

        With one seed the interval is over prompts alone, for this φ.
        """
        columns = []
        for seed in self.seeds:
            total = np.zeros(len(metric.groups))
            for weight, etas in parts:
                total += weight * self.read(metric, seed, etas)
            columns.append(total)
        return estimate(columns, metric.groups)

    def by_seed(self, metric: Metric, etas: Etas) -> list[float]:
        """Return the mean of each seed."""
        found = []
        for seed in self.seeds:
            read = self.read(metric, seed, etas)
            counted = read[~np.isnan(read)]
            found.append(float(np.mean(counted)) if len(counted) else float("nan"))
        return found

    @property
    def over(self) -> str:
        """Say what the intervals are over."""
        if len(self.seeds) == 1:
            return "over groups of prompts, for this φ"
        return "over training seeds and groups of prompts"

    def describe(self) -> str:
        """Say what is asked, and what the intervals are of."""
        return (
            f"{self.evaluator.describe_prompts()}, one answer each at temperature 1; "
            f"intervals: 95 %, {self.over}."
        )


def estimate(columns: Sequence[Column], groups: Sequence[str]) -> Estimate | None:
    """Estimate the mean of what was read for each seed on the same prompts.

    Only prompts that count for every seed are taken. None where they are too few.
    """
    table = np.stack(columns)
    counted = np.all(np.isfinite(table), axis=0)
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


def effect_metrics(evaluator: Evaluator) -> Iterator[Metric]:
    """Yield what answers and held-out pairs show: of every axis, of rewards, KL and malformed."""
    for axis in evaluator.axes:
        if (effect := evaluator.effect(axis)) is not None:
            yield effect
    yield from evaluator.reward_metrics()
    of_answers = evaluator.answer_metrics()
    yield of_answers["kl"]
    yield of_answers["malformed"]


@dataclass(slots=True)
class ExperimentRun:
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

    @property
    def directions(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """The first two axes, each with the other one."""
        first, second = self.axes[:2]
        return (first, second), (second, first)

    def axis_request(self, axis: str, seed: int) -> AxisRequest:
        """Return how an axis is trained, on pairs of the pack or of its own source."""
        asked = self.request
        return AxisRequest(
            axis,
            base=asked.base,
            data=None if asked.data is None else str(self.pack_file(axis, "train")),
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
                found[axis, seed] = self.obtain(prepare(self.own, request))
        return found

    def obtain(self, run: AxisRun) -> VersionRecord:
        """Find the version of a run in the folder or the given registry, else train it."""
        name = f"{run.axis.name}, seed {run.request.seed}"
        found = find_or_train(
            run,
            (self.own, self.given),
            self.own,
            lambda: self.note(f"Training {name} …"),
            progress_of(self.progress, name),
        )
        record = found.record
        if found.place is self.given:
            reference = (record.axis, str(record.number))
            target = self.folder / "registry.db"
            record = copy_version(self.given, reference, target, renumber=True).record
            self.note(f"Took {found.record} of the registry, seed {run.request.seed}.")
        for pole, kept in (record.metadata.get("poles") or {}).items():
            for failure in kept.get("failures") or ():
                value, limit = failure["value"], failure["threshold"]
                what = f"{failure['figure']} {value:.3g}, threshold {limit:.3g}"
                self.missed.append(f"{record}, {pole} pole: {what}")
        return record

    def measure(
        self,
        vectors: Vectors,
        pairs: Mapping[str, HeldOut] | None = None,
        metrics: Callable[[Evaluator], Iterator[Metric]] = effect_metrics,
    ) -> SeedFigures:
        """Open what measures compositions of vectors, scored along their axes.

        The held-out pairs are `pairs`, else of the pack or the axes' own.
        """
        asked = self.request
        scored = tuple(dict.fromkeys(axis for axis, _ in vectors))
        data: tuple[str, ...] = ()
        if pairs is None and asked.data is not None:
            data = tuple(f"{axis}={self.pack_file(axis, 'dev')}" for axis in scored)
        first = {axis: record for (axis, seed), record in vectors.items() if seed == self.seeds[0]}
        evaluator = open_evaluator(
            self.own,
            [Term(axis, 1.0, str(record.number)) for axis, record in first.items()],
            EvaluationRequest(
                base=asked.base,
                axes=scored,
                prompts=asked.prompts,
                max_new_tokens=asked.max_new_tokens,
                data=data,
                reward_models=asked.reward_models,
                tasks=asked.tasks if asked.name == "commonsense" else (),
                task_limit=asked.task_limit,
                task_path=asked.task_path,
            ),
            pairs=pairs,
        )
        self._leave_long_prompts_out(evaluator)
        read = {each.name: each for each in metrics(evaluator)}
        return SeedFigures(evaluator, vectors, self.seeds, self.progress, read)

    def _leave_long_prompts_out(self, evaluator: Evaluator) -> None:
        """Ask only what leaves room for an answer; a pack is not made for one context."""
        context = load_limits(self.base)[0]
        if self.base.world is not None or context is None:
            return
        tokenizer = load_tokenizer(self.base)
        room = context - self.request.max_new_tokens
        asked = evaluator.asked
        evaluator.asked = [
            each for each in asked if len(encode_prompt(each.prompt, tokenizer, each.told)) <= room
        ]
        if left_out := len(asked) - len(evaluator.asked):
            self.note(f"{left_out} of {len(asked)} prompts are too long for the model's context.")

    def recipe(self, measured: SeedFigures | None = None, more: str = "") -> str:
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
    run: ExperimentRun,
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
    path = run.folder / f"{run.request.name}.png"
    draw_curves(
        {name: panel.curves for name, panel in full.items()},
        path,
        title=title,
        caption=found.recipe,
        units={name: panel.unit for name, panel in full.items()},
        across=across,
    )
    found.pictures.append(Picture(path, title, legend))


@dataclass(frozen=True, slots=True)
class Reproduced:
    """An experiment that was carried out."""

    request: ReproduceRequest
    folder: Path
    findings: Findings
    results: dict[str, Any]


def reproduce(
    access: Access,
    request: ReproduceRequest,
    *,
    tell: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Reproduced:
    """Carry out an experiment; vectors are taken from the registry or trained into the folder."""
    described = find_experiment(request.name)
    named = request.axes or experiment_axes(request.name, world_of(request.base))
    axes = tuple(find_axis(name).installed.axis.name for name in named)
    if not described.fewest <= len(axes) <= described.most:
        raise UsageError(
            f"The experiment {request.name!r} takes {described.count}, not {', '.join(axes)}."
        )
    run = described.load()
    experiment = ExperimentRun(
        request=request,
        axes=axes,
        given=access,
        folder=request.output,
        note=tell or (lambda text: None),
        progress=progress,
    )
    run_folder.claim(request)
    try:
        found = run(experiment)
    except BaseException:
        run_folder.give_up(request.output)
        raise
    found.notes += [f"A guard was missed: {each}." for each in experiment.missed]
    results = run_folder.finish(request.output, request, described.summary, found)
    return Reproduced(request, request.output, found, results)
