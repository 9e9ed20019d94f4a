"""Figures of compositions over training seeds, prompt by prompt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from prefreg.errors import DataError
from prefreg.evaluation.statistics import Estimate, grouped_mean, grouped_rate, over_seeds
from prefreg.experiments.gauges import Column, Gauge
from prefreg.flows.measuring.candidates import Candidate
from prefreg.flows.measuring.evaluator import Evaluator
from prefreg.registry import VersionRecord
from prefreg.training import Progress

Etas = Mapping[str, float]
"""A setting of the dials, by axis; those that are missing are at 0."""


@dataclass(slots=True)
class Measuring:
    """The vectors of several seeds on one loaded base, and the gauges that read it."""

    evaluator: Evaluator
    vectors: Mapping[tuple[str, int], VersionRecord]
    seeds: Sequence[int]
    progress: Callable[[str], Progress | None]
    gauges: Mapping[str, Gauge]
    _kept: dict[tuple[str, str], Column] = field(default_factory=dict)

    def own(self, axis: str) -> Gauge:
        """Return what an axis shall move: its own metric, else the margin of its pairs.

        Raises:
            DataError: It has neither.
        """
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
        report = self.progress("")
        for done, (seed, etas) in enumerate(wanted, 1):
            for gauge in self.gauges.values():
                self.read(gauge, seed, etas)
            if report is not None:
                report("measuring", done, len(wanted))

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
