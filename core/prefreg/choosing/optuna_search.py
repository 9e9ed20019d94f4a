"""Optuna's GPSampler behind the same search: constrained, one goal or several."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prefreg.choosing.search import Array, Bound, Goal, Measured
from prefreg.errors import UsageError


@dataclass
class OptunaSearch:
    """Suggests settings by Optuna; a constraint is violated by as many levels as it is missed."""

    goals: Sequence[Goal]
    bounds: Sequence[Bound]
    dials: int
    seed: int = 0
    sampler: str = "GPSampler"
    """A sampler of Optuna by its name; TPESampler and RandomSampler are for comparison."""
    _pending: list[tuple[Array, Any]] = field(default_factory=list)
    _study: Any = None

    def __post_init__(self) -> None:
        try:
            import optuna
        except ImportError as error:
            raise UsageError(
                "--backend optuna needs Optuna: `pip install 'prefreg[tune]'`."
            ) from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        options: dict[str, Any] = {"seed": self.seed}
        if self.sampler != "RandomSampler":
            options["constraints_func"] = lambda trial: trial.user_attrs.get("violations", (0.0,))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental, it says
            sampler = getattr(optuna.samplers, self.sampler)(**options)
        names: list[Any] = ["maximize" if goal.sign > 0 else "minimize" for goal in self.goals]
        self._study = optuna.create_study(directions=names, sampler=sampler)

    def tell(self, measured: Measured, *, fresh: bool = False) -> None:
        """Take note of a setting; one whose costly figures were skipped is told as failed."""
        import optuna

        if fresh:
            return  # its prompts are others
        point = np.array(measured.point)
        pending = next(
            (each for each in self._pending if np.allclose(each[0], point, atol=0.02)), None
        )
        violations = tuple(
            -bound.sign * (measured.levels[bound.name][0] - bound.level)
            for bound in self.bounds
            if bound.name in measured.levels
        )
        complete = all(goal.name in measured.levels for goal in self.goals)
        values = [measured.levels[goal.name][0] for goal in self.goals] if complete else None
        state = optuna.trial.TrialState.COMPLETE if complete else optuna.trial.TrialState.FAIL
        if pending is None:
            space: dict[str, Any] = {
                f"dial{place}": optuna.distributions.FloatDistribution(-1, 1)
                for place in range(self.dials)
            }
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=state,
                    values=values,
                    params={
                        f"dial{place}": float(np.clip(x, -1, 1)) for place, x in enumerate(point)
                    },
                    distributions=space,
                    user_attrs={"violations": violations},
                    system_attrs={"constraints": violations},
                )
            )
            return
        self._pending = [each for each in self._pending if each is not pending]
        pending[1].set_user_attr("violations", violations)
        self._study.tell(pending[1], values, state)

    def ask(self, count: int) -> list[Array]:
        """Return settings that Optuna suggests."""
        found = []
        for _ in range(count):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trial = self._study.ask()
                point = np.array(
                    [trial.suggest_float(f"dial{place}", -1, 1) for place in range(self.dials)]
                )
            self._pending.append((point, trial))
            found.append(point)
        return found
