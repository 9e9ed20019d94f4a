"""The site of a registry: a folder of pages that need nothing but a browser.

Nothing in it knows the time, the machine or the network, so equal registries give equal bytes.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from prefreg.composition.output import (
    new_folder,
    require_usable,
    write_file,
    write_recipe,
)
from prefreg.composition.resolve import CALIBRATION, RANGE, newest
from prefreg.errors import VectorError
from prefreg.files import human_size
from prefreg.json_values import JsonFields
from prefreg.progress import Progress
from prefreg.registry import Access, AliasEvent, Store, VersionRecord
from prefreg.registry.licences import licences_of
from prefreg.sharing.charts import Chart, Line, Point, spark
from prefreg.sharing.record_file import public_name
from prefreg.terms import AXIS_NAME

_MOST_COSINES = 16
"""Vectors in one matrix: reading more takes long, and the numbers would be too small."""
_MOST_DETAILS = 60
_MOST_EVENTS = 24
"""Versions of an axis with all that is known of them; of older ones the table has a line."""
_PALETTE = Path(__file__).parents[1] / "serving" / "page" / "page.css"
"""The page of the server, in whose colours and letters the site is: the first paragraph."""
_NEEDED = 16 << 20


@dataclass(frozen=True, slots=True)
class Report(JsonFields):
    """The site that was written."""

    path: Path
    pages: int
    axes: int
    versions: int
    size: int
    """Bytes of all its files."""


def write_report(
    access: Access, output: Path, *, overwrite: bool = False, progress: Progress | None = None
) -> Report:
    """Write the site of a registry into a folder, whole or not at all.

    Raises:
        RegistryError: The registry is missing or damaged.
        OutputError: The folder cannot be written, or holds what prefreg did not write.
    """
    require_usable(output.resolve(), overwrite=overwrite, keep=())
    with access.reading() as store:
        pages = _Site(store, progress).pages()
        versions = store.versions()
    with new_folder(output, needed=_NEEDED, overwrite=overwrite, keep=()) as folder:
        for name, page in pages.items():
            write_file(folder / name, page)
        formula = "θ_base + Σ ηᵢ·φᵢ"  # by which a folder is known to be one of prefreg's
        write_recipe(folder, {"schema": 1, "formula": formula, "made_by": "prefreg report"})
    size = sum(map(len, pages.values()))
    return Report(output, len(pages), len({each.axis for each in versions}), len(versions), size)


class _Site:
    """The pages of one registry."""

    def __init__(self, store: Store, progress: Progress | None) -> None:
        self._store, self._progress = store, progress
        self._axes: dict[str, list[VersionRecord]] = {}
        for record in store.versions():
            self._axes.setdefault(record.axis, []).append(record)
        self._files = {
            axis: f"axis-{axis if AXIS_NAME.fullmatch(axis) and len(axis) < 100 else place}.html"
            for place, axis in enumerate(self._axes)
        }
        self._environment = Environment(
            loader=PackageLoader("prefreg.sharing", "site"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "size": human_size, "short": public_name, "figure": _figure, "moment": _moment,
        }  # fmt: skip
        place = store.location
        self._environment.globals |= {
            "registry": place if "://" in place else Path(place).name,
            "files": self._files,
            "style": _style(),
        }

    def pages(self) -> dict[str, bytes]:
        """Return every page by the name of its file."""
        index = self._environment.get_template("index.html")
        axis_page = self._environment.get_template("axis.html")
        pages = {"index.html": index.render(self._whole())}
        for axis, records in self._axes.items():
            pages[self._files[axis]] = axis_page.render(self._axis(axis, records))
        # A document may hold half of a surrogate pair, which no file of text can.
        return {name: page.encode("utf-8", "replace") for name, page in pages.items()}

    def _whole(self) -> dict[str, Any]:
        everything = list(chain.from_iterable(self._axes.values()))
        on_base: dict[str, list[VersionRecord]] = {}
        for record in everything:
            on_base.setdefault(record.base.weights, []).append(record)
        newest_ones = {weights: _newest_of_each(records) for weights, records in on_base.items()}
        matrices = [
            (records[0].base.name, found)
            for records in newest_ones.values()
            if (found := self._cosines(records))
        ]
        bases = [(base, len(on_base.get(base.weights, ()))) for base in self._store.bases()]
        return {
            "axes": [_row(records) for records in self._axes.values()],
            "versions": len(everything),
            "bytes": sum({each.sha256: each.size for each in everything}.values()),
            "bases": bases,
            "effects": [
                chart
                for records in on_base.values()
                for axis in dict.fromkeys(each.axis for each in records)
                if (chart := _effect([each for each in records if each.axis == axis], "{}"))
            ],
            "matrices": matrices,
            "presets": [(each, self._store.presets(each.name)) for each in self._store.presets()],
            "licences": licences_of(chain.from_iterable(newest_ones.values())),
        }

    def _axis(self, axis: str, records: Sequence[VersionRecord]) -> dict[str, Any]:
        last = _newest_of_each(records)[-1]
        on_base = [each for each in records if each.base.weights == last.base.weights]
        originals = [each for each in records if not each.form_of]
        charts = [_effect(on_base, "What the dial does, {}"), _training(last), *_over(originals)]
        history = _history(records, self._store.alias_history(axis))
        return {
            "axis": axis,
            "names": _names(records),
            "records": list(reversed(records)),
            "detailed": list(reversed(records))[:_MOST_DETAILS],
            "last": last,
            "facts": _worth(last),
            "charts": [each for each in charts if each],
            "cosines": self._cosines(on_base[-_MOST_COSINES:]),
            "history": [history[:_MOST_EVENTS], history[_MOST_EVENTS:]],
            "poles": {str(each): _reports(each) for each in records},
            "lineage": {str(each): _lineage(each) for each in records},
            "told": {str(each): _told(each) for each in records},
        }

    def _cosines(self, records: Sequence[VersionRecord]) -> dict[str, Any] | None:
        """Return the cosines between vectors of one base; None where there are no two."""
        if len(records) < 2:
            return None
        from prefreg.evaluation.candidates import opened_vectors  # loads torch
        from prefreg.evaluation.weight_geometry import align

        if self._progress is not None:
            self._progress(f"cosines on {public_name(records[0].base.name)}", 0, 1)
        shown = records[:_MOST_COSINES]
        try:
            sources = [(each, self._store.vector_source(each)) for each in shown]
            with opened_vectors(sources) as vectors:
                found = align(vectors, [1.0] * len(vectors)).total.cosines.tolist()
        except VectorError as error:
            return {"problem": str(error)}  # the other pages are none the worse for it
        left_out = len(records) - len(shown)
        return {"names": list(map(str, shown)), "rows": found, "left_out": left_out}


def _style() -> str:
    palette = _PALETTE.read_text("utf-8").partition("\n\n")[0]
    return palette + "\n" + (Path(__file__).with_name("site") / "report.css").read_text("utf-8")


def _newest_of_each(records: Iterable[VersionRecord]) -> list[VersionRecord]:
    """Return the newest version of each axis; another form of one only where all are forms."""
    found: dict[str, VersionRecord] = {}
    for record in records:
        before = found.get(record.axis)
        if before is None or before.form_of or not record.form_of:
            found[record.axis] = record
    return list(found.values())


def _names(records: Sequence[VersionRecord]) -> list[str]:
    return list(dict.fromkeys(name for each in records for name in each.axis_aliases))


def _row(records: Sequence[VersionRecord]) -> dict[str, Any]:
    last = _newest_of_each(records)[-1]
    measured = _measured(records)
    points = [(each.x, each.y) for each in _readings(measured)] if measured else []
    return {
        "axis": last.axis,
        "names": _names(records),
        "count": len(records),
        "last": last,
        "aliases": sorted({alias for each in records for alias in each.aliases}),
        "poles": _reports(last),
        "effect": next((y for x, y in points if x == 1), None),
        "measured": measured,
        "spark": spark(points) if len(points) > 1 else None,
    }


def _get(value: Any, *path: str) -> Any:
    """Return what lies at a path of a document that anybody may have written."""
    if isinstance(value, VersionRecord):
        value = value.metadata
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _reports(record: VersionRecord) -> dict[str, dict[str, float]]:
    """Return the numbers of the held-out reports of both poles."""
    found = {}
    for pole in ("positive", "negative"):
        report = _get(record, "poles", pole, "report")
        told = report.items() if isinstance(report, Mapping) else ()
        if numbers := {
            name: number for name, value in told if (number := _number(value)) is not None
        }:
            found[pole] = numbers
    return found


def _readings(record: VersionRecord) -> list[Point]:
    """Return the effect of the dial against η, as it was measured with its range."""
    kept = newest(record, RANGE)
    read = [Point(0.0, 0.0, 0.0, 0.0, "η 0: the base")]
    for side in ("below", "above"):
        readings = _get(kept, side, "readings")
        for each in readings if isinstance(readings, list) else ():
            eta, effect = _number(_get(each, "eta")), _get(each, "effect")
            y, low, high = (_number(_get(effect, name)) for name in ("value", "low", "high"))
            if eta is not None and y is not None:
                read.append(Point(eta, y, low, high, f"η {eta:g}: {y:+.3f}"))
    return sorted(read, key=lambda point: point.x) if len(read) > 1 else []


def _measured(records: Sequence[VersionRecord]) -> VersionRecord | None:
    """Return the newest version whose dial was turned to see what it does."""
    return next((each for each in reversed(records) if _readings(each)), None)


def _effect(records: Sequence[VersionRecord], title: str) -> Chart | None:
    record = _measured(records)
    if record is None:
        return None
    kept = newest(record, RANGE)
    ends = [n for name in ("low", "high") if (n := _number(_get(kept, name))) is not None]
    figure = _get(kept, "figure")
    unit = f"{figure}, change from the base" if isinstance(figure, str) else "change from the base"
    line = Line("effect", "a", _readings(record))
    return Chart(title.format(record), "η", [line], unit, guides=ends)


def _training(record: VersionRecord) -> Chart | None:
    lines = []
    for pole, tone in (("positive", "a"), ("negative", "b")):
        curve = _get(record, "poles", pole, "curve")
        points = [
            Point(step, loss, said=f"step {step:g}: {loss:.4f}")
            for each in (curve if isinstance(curve, list) else ())
            if (step := _number(_get(each, "step"))) is not None
            and (loss := _number(_get(each, "loss"))) is not None
        ]
        if len(points) > 1:
            lines.append(Line(f"{pole} pole", tone, points, dots=False))
    return Chart(f"Training of {record}", "step", lines, "loss", whole=True) if lines else None


def _over(records: Sequence[VersionRecord]) -> Iterator[Chart]:
    """Draw what is known of more than one version, against their numbers."""

    def line(name: str, tone: str, read: Any) -> Line:
        values = [(each, read(each)) for each in records]
        return Line(
            name,
            tone,
            [
                Point(each.number, value, said=f"{each}: {value:.4g}")
                for each, value in values
                if value is not None
            ],
        )

    def of_pole(pole: str, name: str) -> Any:
        return lambda record: _reports(record).get(pole, {}).get(name)

    poles = (("positive", "a"), ("negative", "b"))
    wanted = [
        (title, unit, [line(f"{pole} pole", tone, of_pole(pole, name)) for pole, tone in poles])
        for title, unit, name in (
            ("Accuracy over versions", "held-out pairs", "accuracy"),
            ("Margin over versions", "nats", "mean_margin"),
        )
    ]
    norm = line("norm", "a", lambda each: _number(_get(each, "geometry", "norm")))
    wanted.append(("Length of φ over versions", "norm", [norm]))
    for title, unit, lines in wanted:
        known = [each for each in lines if len(each.points) > 1]
        if known:
            yield Chart(title, "version", known, unit, whole=True)


def _worth(record: VersionRecord) -> list[tuple[str, str, str]]:
    """Return what a version is worth: a name, a figure, and what it is of."""
    facts = []
    for pole, report in _reports(record).items():
        if "accuracy" in report:
            pairs = f"of {report['pairs']:.0f} held-out pairs" if "pairs" in report else ""
            facts.append((f"{pole} pole", f"{report['accuracy']:.1%}", pairs))
    cosine = _number(_get(record, "geometry", "cosine_poles"))
    if cosine is not None:
        facts.append(("cosine of the poles", _figure(cosine), "−1 is opposite"))
    length = _number(_get(record, "geometry", "norm"))
    if length is not None:
        facts.append(("length of φ", _figure(length), "Euclidean norm"))
    kept = newest(record, RANGE)
    low, high = _number(_get(kept, "low")), _number(_get(kept, "high"))
    if low is not None and high is not None:
        facts.append(("range of η", f"{_figure(low)} … {_figure(high)}", "answers stay whole"))
    kept = newest(record, CALIBRATION)
    ends = [_number(_get(kept, side, "eta")) for side in ("negative", "positive")]
    if None not in ends:
        told = " / ".join(_figure(end) for end in ends)
        facts.append(("one calibrated unit", told, str(_get(kept, "goal") or "")))
    facts.append(("bytes", human_size(record.size), f"{record.kind}, {record.dtype}"))
    return facts


@dataclass(frozen=True, slots=True)
class _Event:
    moment: Any
    kind: str
    version: int | None
    text: str
    note: str = ""


def _history(records: Sequence[VersionRecord], events: Sequence[AliasEvent]) -> list[_Event]:
    """Return what happened to an axis, the newest first."""
    there = {record.number for record in records}
    happened = [
        _Event(
            record.created,
            "form" if record.form_of else "version",
            record.number,
            f"{record} added" + (f", another form of {record.form_of}" if record.form_of else ""),
            record.note or "",
        )
        for record in records
    ]
    for event in events:
        to = "" if event.number is None else f" to version {event.number}"
        text = f"{event.alias} {event.action}{to}"
        happened.append(
            _Event(event.created, "alias", event.number if event.number in there else None, text)
        )
    return sorted(happened, key=lambda each: each.moment, reverse=True)


def _lineage(record: VersionRecord) -> list[tuple[str, str]]:
    """Return what a version came from, step by step."""
    base = record.base
    steps = [("base", f"{public_name(base.name)} · weights {base.weights[:12]}")]
    sources = _get(record, "data", "sources")
    for source in sources if isinstance(sources, list) else ():
        rows, licence = _number(_get(source, "rows")), _get(source, "licence")
        told = [str(_get(source, "source"))]
        told += [str(revision)[:12]] if (revision := _get(source, "revision")) else []
        told += [f"{rows:,.0f} rows"] if rows is not None else []
        told += [str(licence)] if licence else []
        steps.append(("data", " · ".join(told)))
    pairs = _number(_get(record, "data", "audit", "pairs"))
    seed = _number(_get(record, "training", "seed"))
    if pairs is not None:
        drawn = "" if seed is None else f", seed {seed:.0f}"
        steps.append(("pairs", f"{pairs:,.0f}, for both poles{drawn}"))
    plugin = _get(record, "plugin", "distribution")
    if plugin:
        steps.append(("axis by", f"{plugin} {_get(record, 'plugin', 'version') or ''}".strip()))
    if record.form_of:
        steps.append(("form of", record.form_of))
    return steps


def _told(record: VersionRecord) -> list[tuple[str, str]]:
    """Return the settings and the surroundings of a run, as names and values."""
    parts = [
        ("", _get(record, "training", "settings")),
        ("", _get(record, "environment", "packages")),
        ("seconds", {"total": _get(record, "seconds", "total")}),
    ]
    return [
        (f"{before} {name}".strip(), _figure(value))
        for before, part in parts
        if isinstance(part, Mapping)
        for name, value in part.items()
        if value is not None
    ]


def _figure(value: Any) -> str:
    """Write a number to four digits with a true minus, and anything else as it is."""
    number = _number(value)
    if number is None:
        return str(value)
    text = f"{value:,}" if isinstance(value, int) else f"{number:.4g}"
    return f"−{text[1:]}" if text.startswith("-") else text


def _moment(value: Any) -> str:
    return f"{value:%Y-%m-%d %H:%M}"
