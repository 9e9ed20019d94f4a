"""How well η is chosen: decoupled dials, and tuning beside other searches, on the bundled model.

Stages, each of which goes on where it was interrupted (`--out` keeps what is measured):

- `pool`: settings drawn at random from the ranges of K dials, each on prompts of its own, and a
  smooth surface per figure fitted to all of them. The surface says which targets lie inside the
  reachable set, where the front is, and which settings come first.
- `decouple`: effects that the surface can reach, found by `--decouple` on the test prompts; by one
  linear solve and by η = calibrated request beside it. Judged on other prompts.
- `emulate`: tuning with the surface in place of the model and the noise of so many prompts: a goal
  and constraints at random points of the front, relaxed by 10 %, each search with the same budget;
  the regret is against the best of 2,000 random settings.

Usage: python benchmarks/choosing.py STAGE --k 3 [--targets 20] [--prompts 400] [--out out/choosing]
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from prefreg.choosing.choosing_request import TuneRequest
from prefreg.choosing.decouple import OFF_TARGET, ON_TARGET, Dialling, range_of
from prefreg.choosing.gauges import Array, Gauge, Panel, Reading
from prefreg.choosing.optuna_search import OptunaSearch
from prefreg.choosing.search import GeometrySearch, Goal, Search
from prefreg.choosing.study import Study, Trial, Wish, part_prompts
from prefreg.choosing.tune import open_study, run
from prefreg.errors import DataError
from prefreg.evaluation.calibration import Unit
from prefreg.evaluation.dial_effects import find_geometry
from prefreg.evaluation.evaluate import parse_requirements
from prefreg.evaluation.evaluation_request import EvaluationRequest
from prefreg.evaluation.evaluator import Evaluator, open_dials
from prefreg.evaluation.statistics import rate
from prefreg.registry import Access
from prefreg.terms import Term

DIALS = {
    3: ("harmless", "helpful", "verbosity"),
    6: ("directness", "harmless", "helpful", "honesty", "politeness", "verbosity"),
}
BUDGETS = {3: 40, 6: 80}
ALSO = ("kl", "correct", "malformed")
POOL_PROMPTS = 128
SEED = 20


def main() -> None:
    """Run one stage and write its rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=["pool", "decouple", "emulate"])
    parser.add_argument("--k", type=int, default=3, choices=sorted(DIALS))
    parser.add_argument("--targets", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--pool", type=int, default=2000)
    parser.add_argument("--searches", default="geometry")
    parser.add_argument("--out", type=Path, default=Path("out/choosing"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    stages[arguments.stage](arguments)


def opened(k: int, prompts: int, seed: int = 0) -> Evaluator:
    """Return the evaluator of K dials on test prompts, with the same chance for all settings."""
    request = EvaluationRequest(prompts=prompts, seed=seed)
    evaluator = open_dials(Access("registry.db"), [Term(axis, 1.0) for axis in DIALS[k]], request)
    evaluator.coupled = True
    return evaluator


def ranges(evaluator: Evaluator) -> tuple[Array, Array]:
    """Return both ends of the dials."""
    found = np.array([range_of(term.record) for term in evaluator.terms])
    return found[:, 0], found[:, 1]


class Rows:
    """A file of JSON lines, read again after an interruption."""

    def __init__(self, path: Path) -> None:
        """Read what is there."""
        self.path = path
        self.rows = (
            [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        )

    def add(self, row: dict[str, Any]) -> None:
        """Append a row."""
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def measure_pool(arguments: argparse.Namespace) -> None:
    """Measure random settings, each on prompts and with chance of its own."""
    k = arguments.k
    rows = Rows(arguments.out / f"pool{k}.jsonl")
    evaluator = opened(k, 16 * POOL_PROMPTS)
    low, high = ranges(evaluator)
    random = np.random.default_rng((SEED, k))
    points = random.uniform(-1, 1, (arguments.pool, k))
    # The first one in eight lies near the base, where targets mostly are.
    points[::8] *= 0.5
    by_kind: dict[str | None, list[Any]] = {}
    for asked in evaluator.asked:
        by_kind.setdefault(asked.kind, []).append(asked)
    for number, point in enumerate(points):
        own = np.random.default_rng((SEED, k, number))
        if number < len(rows.rows):
            continue
        share = POOL_PROMPTS // len(by_kind)
        asked = [kind[i] for kind in by_kind.values() for i in own.choice(len(kind), share, False)]
        request = replace(evaluator.request, seed=1000 + number)
        part = replace(evaluator.asking(asked), request=request)
        etas = low + (point + 1) / 2 * (high - low)
        figures = {}
        candidate = part.at(etas.tolist())
        of_answers = part.answer_metrics()
        for name in (*DIALS[k], *ALSO):
            values = (of_answers.get(name) or part._metric(name)).read(candidate)
            counted = values[np.isfinite(values)]
            figures[name] = [float(counted.sum()), len(counted)]
        rows.add({"point": point.tolist(), "figures": figures})


@dataclass(frozen=True)
class Surface:
    """Every figure as a smooth function of the dials, fitted to the pool."""

    gauges: dict[str, Gauge]
    weights: dict[str, Array]
    base: Array
    """The setting of the base."""
    quadratic: Callable[[Array], Array]
    """Log of ½ηᵀGη: a logarithm of KL alone would be no polynomial near the base."""

    def level(self, name: str, points: Array) -> Array:
        """Return the level of a figure at settings in −1…1."""
        around = self.quadratic(points) if name == "kl" else 0.0
        return np.asarray(around + features(points) @ self.weights[name])


def features(points: Array) -> Array:
    """Return the monomials up to the second degree, and the cubes."""
    one, other = np.triu_indices(points.shape[1])
    return np.concatenate(
        [np.ones((len(points), 1)), points, points[:, one] * points[:, other], points**3], axis=1
    )


def fit_surface(rows: Sequence[dict[str, Any]], panel: Panel, names: Sequence[str]) -> Surface:
    """Fit shares by logistic regression, the rest by least squares on their scale."""
    points = np.array([row["point"] for row in rows])
    found, gauges = {}, {}
    low, high = ranges(panel.evaluator)
    gram = find_geometry(panel.evaluator).gram
    floor = panel.gauge("kl").level_of

    def quadratic(points: Array) -> Array:
        etas = low + (points + 1) / 2 * (high - low)
        return np.array([floor(0.5 * float(eta @ gram @ eta)) for eta in etas])

    for name in names:
        gauge = gauges[name] = panel.gauge(name)
        used = [n for n, row in enumerate(rows) if row["figures"].get(name, [0, 0])[1] > 0]
        sums = np.array([rows[n]["figures"][name] for n in used])
        matrix = features(points[used])
        ridge = 1e-2 * np.eye(matrix.shape[1])
        if gauge.unit is Unit.LOG_ODDS:
            weights = np.zeros(matrix.shape[1])
            for _ in range(30):
                share = 1 / (1 + np.exp(-np.clip(matrix @ weights, -20, 20)))
                spread = sums[:, 1] * share * (1 - share) + 1e-6
                slope = matrix.T @ (sums[:, 0] - sums[:, 1] * share) - ridge @ weights
                weights = weights + np.linalg.solve(
                    matrix.T @ (spread[:, None] * matrix) + ridge, slope
                )
        else:
            levels = gauge.level(sums) - (quadratic(points[used]) if name == "kl" else 0.0)
            count = sums[:, 1:2]
            curvature = matrix.T @ (count * matrix) + ridge
            weights = np.linalg.solve(curvature, matrix.T @ (count[:, 0] * levels))
        found[name] = weights
    return Surface(gauges, found, -(high + low) / (high - low), quadratic)


def surface_of(arguments: argparse.Namespace, panel: Panel) -> Surface:
    """Read the pool and fit."""
    rows = Rows(arguments.out / f"pool{arguments.k}.jsonl").rows
    return fit_surface(rows, panel, (*DIALS[arguments.k], *ALSO))


def reachable_targets(surface: Surface, k: int, count: int, low: Array, high: Array) -> list[Array]:
    """Return effects of one axis or two, others at 0, that the surface reaches."""
    random = np.random.default_rng((SEED, k, 1))
    base = -(high + low) / (high - low)
    names = DIALS[k]
    zero = np.array([surface.level(name, base[None])[0] for name in names])
    found: list[Array] = []
    while len(found) < count:
        wanted = np.zeros(k)
        for axis in random.choice(k, 1 + (len(found) % 2), replace=False):
            wanted[axis] = random.choice([-1, 1]) * random.uniform(0.4, 1.2)
            if names[axis] == "verbosity":  # a logarithm of words, not log-odds
                wanted[axis] *= 0.4
        point = base.copy()
        for _ in range(60):
            at = np.array([surface.level(name, point[None])[0] for name in names]) - zero
            up, down = (point + sign * 1e-3 * np.eye(k) for sign in (1, -1))
            slopes = np.array(
                [(surface.level(name, up) - surface.level(name, down)) / 2e-3 for name in names]
            )
            change = np.linalg.lstsq(
                slopes.T @ slopes + 1e-3 * np.eye(k), slopes.T @ (wanted - at), rcond=None
            )[0]
            point = np.clip(point + np.clip(change, -0.2, 0.2), -1, 1)
        at = np.array([surface.level(name, point[None])[0] for name in names]) - zero
        if np.abs(at - wanted).max() < 0.03:
            found.append(wanted.round(2))
    return found


def measure_decoupling(arguments: argparse.Namespace) -> None:
    """Find η for each target, and judge it on other prompts."""
    k = arguments.k
    rows = Rows(arguments.out / f"decouple{k}.jsonl")
    evaluator = opened(k, arguments.prompts)
    dialling = Dialling.open(evaluator)
    other = opened(k, 2 * arguments.prompts, seed=1)
    _, fresh = part_prompts(evaluator.asked, other.asked)
    judging = replace(evaluator.asking(fresh), request=other.request, pairs=other.pairs, _tokens={})
    judge = Dialling(judging, tuple(Panel(judging).gauge(g.name) for g in dialling.gauges),
                     dialling.low, dialling.high, dialling.gram)  # fmt: skip
    targets = reachable_targets(
        surface_of(arguments, dialling.panel), k, arguments.targets, dialling.low, dialling.high
    )
    jacobian = np.stack([each.sum(0) for each in dialling.slopes(evaluator.plain)])
    for number, wanted in enumerate(targets):
        if number < len(rows.rows):
            continue
        began = time.process_time()
        sought, steps = dialling.seek(wanted)
        seconds = time.process_time() - began
        weights = 1 / np.maximum(ON_TARGET * np.abs(wanted), OFF_TARGET)
        once = dialling.step(jacobian * weights[:, None], wanted * weights, np.zeros(k), np.inf)
        plain = np.clip(wanted / np.diag(jacobian), dialling.low, dialling.high)
        row: dict[str, Any] = {"wanted": wanted.tolist(), "steps": len(steps), "seconds": seconds}
        for name, etas in (("decoupled", sought), ("one_shot", once), ("linear", plain)):
            effects = judge.effects(judging.at(etas.tolist()))
            row[name] = {
                "etas": etas.tolist(),
                "effects": [effect.value for effect in effects],
                "errors": [effect.error for effect in effects],
                **judged(wanted, effects),
            }
        rows.add(row)
        print(json.dumps(row), flush=True)
    for name in ("decoupled", "one_shot", "linear"):
        for kind in ("met", "met_by_value", "on_target", "off_target"):
            hits = sum(row[name][kind] for row in rows.rows)
            print(name, kind, rate(hits, len(rows.rows)))


def judged(wanted: Array, effects: Sequence[Any]) -> dict[str, bool]:
    """Hold effects against what was wanted: on target within 20 %, off target inside ± .1."""
    on, off, off_value = [], [], []
    for want, effect in zip(wanted, effects, strict=True):
        if want:
            on.append(abs(effect.value - want) <= ON_TARGET * abs(want))
        else:
            off.append(effect.low >= -OFF_TARGET and effect.high <= OFF_TARGET)
            off_value.append(abs(effect.value) <= OFF_TARGET)
    return {
        "met": all(on) and all(off),
        "met_by_value": all(on) and all(off_value),
        "on_target": all(on),
        "off_target": all(off),
    }


@dataclass(frozen=True)
class Task:
    """A goal and constraints at a point of the front, relaxed by 10 %."""

    target: str
    subject_to: str


def tasks(surface: Surface, points: Array, k: int, count: int) -> list[Task]:
    """Place constraints at settings of the pool that are the best by random weights."""
    random = np.random.default_rng((SEED, k, 2))
    names = DIALS[k]
    levels = np.stack([surface.level(name, points) for name in names], axis=1)
    spread = levels.std(0)
    nats = np.exp(surface.level("kl", points))
    found: list[Task] = []
    while len(found) < count:
        weights = random.dirichlet(np.ones(k))
        best = int(((levels / spread) @ weights - 0.5 * nats).argmax())
        goal = random.integers(k)
        bounds = []
        for place, name in enumerate(names):
            if place != goal:
                value = surface.gauges[name].value_of(levels[best, place])
                bounds.append(f"{name}>={value - 0.1 * abs(value):.4f}")
        bounds.append(f"kl<={1.1 * nats[best]:.4f}")
        right = float(surface.level("correct", points[best][None])[0])
        bounds.append(f"correct>={0.9 * surface.gauges['correct'].value_of(right):.4f}")
        # What is asked shall be more than the base has, or regret means nothing.
        if levels[best, goal] > surface.level(names[goal], surface.base[None])[0] + 0.2:
            found.append(Task(f"{names[goal]}=max", ",".join(bounds)))
    return found


@dataclass
class EmulatedStudy(Study):
    """A study whose settings are read off the surface, with the noise of so many prompts."""

    surface: Surface | None = None
    known_priors: dict[str, Any] | None = None
    random: np.random.Generator = field(default_factory=np.random.default_rng)
    shared: dict[tuple[bool, str], float] = field(default_factory=dict)

    def priors(self) -> dict[str, Any]:
        """Return what was expected before, which no task changes."""
        assert self.known_priors is not None
        return {name: self.known_priors[name] for name in self.names}

    def measure(self, etas: tuple[float, ...], *, doubtful: bool = False) -> Trial:
        """Read a setting off the surface."""
        return Trial(etas, self._emulate(etas, fresh=False))

    def measure_fresh(self, etas: tuple[float, ...]) -> Trial:
        """Read a setting off the surface, with other noise."""
        return Trial(etas, self._emulate(etas, fresh=True), fresh=True)

    def truth(self, etas: tuple[float, ...]) -> dict[str, float]:
        """Return the levels without noise."""
        assert self.surface is not None
        point = self.scaled(etas)[None]
        return {name: float(self.surface.level(name, point)[0]) for name in self.names}

    def _emulate(self, etas: tuple[float, ...], *, fresh: bool) -> dict[str, Reading]:
        found = {}
        for name, level in self.truth(etas).items():
            gauge = self.panel.gauge(name)
            asked = self.fresh.asked if fresh else self.evaluator.asked
            error = self._error(gauge, level, len(asked))
            # Half of the variance is that of the prompts, which all settings share.
            shared = self.shared.setdefault((fresh, name), float(self.random.normal()))
            noise = error * 0.5**0.5 * (shared + float(self.random.normal()))
            found[name] = Reading(level + noise, error, gauge.value_of(level + noise))
        return found

    def _error(self, gauge: Gauge, level: float, prompts: int) -> float:
        """Return about the standard error that the model's readings have, by groups of prompts."""
        if gauge.unit is Unit.LOG_ODDS:
            share = gauge.value_of(level)
            counted = prompts / (2 if gauge.name in ("helpful", "correct") else 4)
            return float((1.5 / (counted * share * (1 - share) + 0.5)) ** 0.5)
        return float((3.0 if gauge.unit is Unit.NATS else 0.9) / prompts**0.5)


def emulate(arguments: argparse.Namespace) -> None:
    """Tune on the surface with every search, at the same budget."""
    k = arguments.k
    rows = Rows(arguments.out / f"emulate{k}.jsonl")
    known = {(row["task"], row["search"]) for row in rows.rows}
    tuning = TuneRequest("kl=min", axes=DIALS[k], budget=BUDGETS[k])
    request = EvaluationRequest(prompts=arguments.prompts)
    access = Access("registry.db")
    everything = parse_requirements(",".join(f"{name}>=0" for name in (*DIALS[k], *ALSO)))
    plain, _ = open_study(access, tuning, request, [Goal("kl", -1)], everything)
    priors = plain.priors()
    surface = surface_of(arguments, plain.panel)
    points = np.random.default_rng((SEED, k)).uniform(-1, 1, (2000, k))
    for number, task in enumerate(tasks(surface, points, k, arguments.targets)):
        requirements = parse_requirements(task.subject_to)
        goal = Goal(task.target.removesuffix("=max"), 1)
        for search_name in arguments.searches.split(","):
            if (number, search_name) in known:
                continue
            wishes = [Wish(each, plain.panel.gauge(each.name)) for each in requirements]
            study = EmulatedStudy(
                plain.evaluator, plain.fresh, [goal], wishes, plain.low, plain.high, plain.panel,
                plain.fresh_panel, surface=surface, known_priors=priors,
                random=np.random.default_rng((SEED, number)),
            )  # fmt: skip
            search = make_search(search_name, study, k)
            row = {"task": number, "search": search_name, "target": task.target}
            row |= {"subject_to": task.subject_to}
            rows.add(row | judge_study(study, search, replace(tuning, target=task.target), points))
    report_tuning(rows.rows)


def make_search(name: str, study: Study, k: int) -> Search:
    """Return a search by its name."""
    if name == "geometry":
        first = max(k + 2, min(BUDGETS[k] // 4, 2 * k + 4))
        times = len(study.fresh.asked) / len(study.evaluator.asked)
        return GeometrySearch(
            study.goals, study.bounds, study.priors(), k, first, fresh_times=times
        )
    return OptunaSearch(study.goals, study.bounds, k, 0, name)


def judge_study(
    study: EmulatedStudy, search: Search, tuning: TuneRequest, points: Array
) -> dict[str, Any]:
    """Run a study and hold what it recommends against the truth of the surface."""
    goal = study.goals[0]
    assert study.surface is not None
    likely = np.ones(len(points), dtype=bool)
    for bound in study.bounds:
        likely &= bound.sign * (study.surface.level(bound.name, points) - bound.level) >= 0
    levels = study.surface.level(goal.name, points)
    gauge = study.panel.gauge(goal.name)
    best = gauge.value_of(float(levels[likely].max()))
    base = gauge.value_of(study.truth((0.0,) * len(study.low))[goal.name])
    asked, seconds = search.ask, [0.0, 0.0]

    def timed(count: int) -> list[Array]:
        began = time.process_time()
        found = asked(count)
        seconds[0] += time.process_time() - began
        seconds[1] += count
        return found

    search.ask = timed  # type: ignore[method-assign]
    row: dict[str, Any] = {"best": best, "base": base, "recommended": False}
    try:
        found = run(study, search, tuning)
    except DataError as error:
        row["said"] = str(error)
    else:
        truth = study.truth(found.best.trial.etas)
        missed = [b.sign * (truth[b.name] - b.level) for b in study.bounds]
        value = gauge.value_of(truth[goal.name])
        row |= {
            "recommended": True,
            "holds": min(missed) >= 0,
            "regret": (best - value) / (best - base),
            "terms": list(found.best.trial.etas),
        }
    row["evaluations"] = len(study.trials)
    row["seconds_per_suggestion"] = seconds[0] / max(1, seconds[1])
    return row


def report_tuning(rows: Sequence[dict[str, Any]]) -> None:
    """Print what each search reached."""
    for name in dict.fromkeys(row["search"] for row in rows):
        own = [row for row in rows if row["search"] == name]
        made = [row for row in own if row["recommended"]]
        # Where nothing was recommended, the base is what is left.
        regrets = [row["regret"] if row["recommended"] else 1.0 for row in own]
        held = sum(row["holds"] for row in made)
        print(
            f"{name}: recommended {len(made)} of {len(own)}; constraints hold "
            f"{rate(held, len(made)) if made else '-'}; regret median {np.median(regrets):.3f}, "
            f"90 % {np.quantile(regrets, 0.9):.3f}; "
            f"{np.mean([row['seconds_per_suggestion'] for row in own]):.3f} s a suggestion"
        )


stages: dict[str, Callable[[argparse.Namespace], None]] = {
    "pool": measure_pool,
    "decouple": measure_decoupling,
    "emulate": emulate,
}

if __name__ == "__main__":
    main()
