"""Check an axis from its rows to its vector's first steps."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from prefreg.authoring.pair_checks import (
    AxisCheck,
    Finding,
    LabelledRows,
    check_columns,
    check_determinism,
    check_encoding,
    check_leaks,
    check_length,
    check_limit,
    check_metric,
    check_repetitions,
    check_switch,
    check_texts,
    check_ties,
    failed,
    label_all,
    passed,
    take_rows,
)
from prefreg.axes.axis import Axis
from prefreg.axes.isolation import off_stdout
from prefreg.axes.plugins import find_axis
from prefreg.axes.row_sources import check_source_licence
from prefreg.checkpoints.bundled import DEFAULT_BASE
from prefreg.data.mixture import default_source
from prefreg.data.pairs import Audit, PairSet, build_pairs
from prefreg.data.tokens import PreviewToken
from prefreg.errors import DataError, UsageError


def check_axis(
    axis: Axis,
    source: str | None = None,
    limit: int = 500,
    seed: int = 0,
    train: bool = True,
) -> AxisCheck:
    """Check everything that prefreg relies on, on at most `limit` rows of a source.

    Without a source: the one that the default base takes. `train=False` leaves out the smoke
    run, which trains both poles on the bundled model for ten steps.

    Raises:
        UsageError: The limit is not positive.
        DataError: The axis has no such source.
    """
    name = default_source(axis, DEFAULT_BASE) if source is None else source
    if limit < 1:
        raise UsageError(f"A limit of {limit} leaves no row to check.")
    if name not in axis.sources:
        known = ", ".join(axis.sources)
        raise DataError(f"The axis {axis.name!r} has no source {name!r}: it has {known}.")
    with off_stdout():
        return _Run(axis, name, limit, seed).check(train=train)


def check_installed(
    name: str,
    source: str | None = None,
    *,
    limit: int = 500,
    seed: int = 0,
    train: bool = True,
    accept_licence: bool = False,
    tell: Callable[[str], None] | None = None,
) -> AxisCheck:
    """Check an axis that is installed, or that a YAML file declares; its licence is noted."""
    axis = find_axis(name).installed.axis
    read = default_source(axis, DEFAULT_BASE) if source is None else source
    shown = (
        check_source_licence(axis, read, accepted=accept_licence) if read in axis.sources else None
    )
    if shown and tell is not None:
        tell(shown)
    return check_axis(axis, source, limit, seed, train)


def assert_conforms(
    axis: Axis,
    source: str | None = None,
    limit: int = 500,
    seed: int = 0,
    train: bool = True,
) -> None:
    """Check an axis in a test.

    Raises:
        AssertionError: A check failed; the message is the report.
    """
    __tracebackhide__ = True  # pytest then shows the test's own line
    report = check_axis(axis, source, limit, seed, train)
    if not report.passed:
        raise AssertionError(f"\n{report}")


@dataclass(slots=True)
class _Run:
    """One check under way; it ends early where the later checks would rest on a failed one."""

    axis: Axis
    source: str
    limit: int
    seed: int
    findings: list[Finding] = field(default_factory=list)
    rows: int = 0
    audit: Audit | None = None
    preview: tuple[list[PreviewToken], ...] = ()

    def check(self, *, train: bool) -> AxisCheck:
        """Run every check."""
        reading = self._check_rows()
        if reading is not None and reading.pairs:
            pairs = self._check_pairs(reading)
            if pairs is not None and not self._has_failed("switch"):
                self._check_on_base(pairs, train=train)
        return AxisCheck(
            axis=self.axis.name,
            source=self.source,
            seed=self.seed,
            rows=self.rows,
            findings=tuple(self.findings),
            audit=self.audit,
            preview=self.preview,
        )

    def _check_rows(self) -> LabelledRows | None:
        axis, source, limit, seed = self.axis, self.source, self.limit, self.seed
        try:
            rows = take_rows(axis, source, limit=limit, seed=seed)
        except DataError as error:
            self.findings.append(failed("rows", str(error)))
            return None
        self.rows = len(rows)
        if not rows:
            self.findings.append(failed("rows", f"the source {source!r} gives no rows"))
            return None
        self.findings.append(passed("rows", f"{len(rows)} rows"))
        self._note("limit", check_limit, axis, source, rows=len(rows), seed=seed)
        try:
            reading = label_all(axis, rows)
        except DataError as error:
            self.findings.append(failed("label", str(error)))
            return None
        self._note("columns", check_columns, axis, rows)
        self._note("determinism", check_determinism, axis, source, reading, limit=limit, seed=seed)
        self.findings.append(check_ties(reading))
        return reading

    def _check_pairs(self, reading: LabelledRows) -> PairSet | None:
        found = reading.pairs
        self.findings += [check_texts(found), check_encoding(found), check_switch(self.axis, found)]
        try:
            pairs = build_pairs(reading.labelled, axis_name=self.axis.name, seed=self.seed)
        except DataError as error:
            self.findings.append(failed("pairs", str(error)))
            return None
        self.audit = pairs.audit
        self.findings += check_repetitions(pairs.audit)
        self.findings += [check_leaks(pairs), check_length(pairs.audit)]
        if self.axis.metric is not None:
            self.findings.append(check_metric(self.axis, (*pairs.heldout, *pairs.train)))
        return pairs

    def _check_on_base(self, pairs: PairSet, *, train: bool) -> None:
        # torch, transformers and trl take seconds to import: only here.
        from prefreg.authoring.smoke import check_smoke, check_tokens, open_bench

        bench = open_bench()
        finding, self.preview = check_tokens(self.axis, pairs, bench)
        self.findings.append(finding)
        if train:
            self.findings.append(check_smoke(self.axis, pairs, bench, seed=self.seed))

    def _note(
        self, check: str, function: Callable[..., Finding], *args: Any, **kwargs: Any
    ) -> None:
        """Add the finding of a check that calls the plugin, whose failure is a finding too."""
        try:
            self.findings.append(function(*args, **kwargs))
        except DataError as error:
            self.findings.append(failed(check, str(error)))

    def _has_failed(self, check: str) -> bool:
        return any(found.check == check and found.status == "failed" for found in self.findings)
