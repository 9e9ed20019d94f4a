"""Where the rows of a run come from: the sources of an axis, files, or several of them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from prefreg.axes.axis import AskedBase, Axis, PreferencePair, SourceRequest
from prefreg.axes.isolation import label_rows, read_source
from prefreg.axes.row_sources import (
    check_licence,
    check_source_licence,
    read_preference_file,
)
from prefreg.checkpoints.bundled import find_bundled
from prefreg.errors import DataError, UsageError


@dataclass(frozen=True, slots=True)
class WantedRows:
    """A source or file that is to be read."""

    name: str
    is_file: bool
    revision: str | None = None
    weight: float | None = None
    licence: str | None = None
    """Of a file, as it was stated; a source has its own."""


def read_wanted(axis: Axis, texts: Sequence[str], revision: str | None) -> tuple[WantedRows, ...]:
    """Understand every `--data`, and give a single source the `--revision`."""
    wanted = tuple(_read(axis, text) for text in texts)
    names = [each.name for each in wanted]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--data names {name!r} twice: name it once, with its weight.")
    if len({each.weight is None for each in wanted}) > 1:
        raise UsageError("Give every --data a weight, as in NAME:0.7, or none.")
    if revision is None:
        return wanted
    if len(wanted) > 1:
        raise UsageError("--revision pins one source; of several, pin each: --data NAME@REVISION.")
    (only,) = wanted
    if only.is_file:
        raise UsageError(f"--revision pins a source on a hub; {only.name} is a file.")
    if only.revision is not None:
        raise UsageError(f"{texts[0]!r} and --revision pin the same source: give one of them.")
    return (replace(only, revision=revision),)


def _read(axis: Axis, text: str) -> WantedRows:
    """Read one `--data`; a source or a file whose name is the whole text wins."""
    head, colon, weight = text.rpartition(":")
    if found := _exact(axis, text):
        return found
    # No revision has a colon.
    if colon and (found := _exact(axis, head) or _pinned(axis, head)):
        return replace(found, weight=_read_weight(text, weight))
    if found := _pinned(axis, text):
        return found
    known = ", ".join(axis.sources)
    raise DataError(f"{text!r} is neither a source of the axis {axis.name!r} ({known}) nor a file.")


def _exact(axis: Axis, text: str) -> WantedRows | None:
    if text in axis.sources:
        return WantedRows(text, is_file=False)
    return WantedRows(text, is_file=True) if text and Path(text).exists() else None


def _pinned(axis: Axis, text: str) -> WantedRows | None:
    name, at, revision = text.partition("@")
    if not at or name not in axis.sources:
        return None
    if not revision:
        raise UsageError(f"{text!r} pins no revision: write it behind the @.")
    return WantedRows(name, is_file=False, revision=revision)


def _read_weight(text: str, weight: str) -> float:
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf):
        raise UsageError(f"The weight in {text!r} is no positive number: write NAME:0.7.")
    return value


def _licensed(wanted: tuple[WantedRows, ...], licence: str) -> tuple[WantedRows, ...]:
    """State the licence of the files."""
    if not any(each.is_file for each in wanted):
        raise UsageError(
            "--data-licence is of files, and no --data names one: sources state theirs."
        )
    if not licence.strip() or not licence.isprintable():
        raise UsageError(f"{licence!r} is no licence: write its identifier, as in CC-BY-4.0.")
    return tuple(replace(each, licence=licence) if each.is_file else each for each in wanted)


Labelled = Iterator[PreferencePair | None]
Item = TypeVar("Item")


@dataclass(slots=True)
class MixturePart:
    """One source of a run, with what has been read of it so far."""

    source: str
    """The source's name, or `file`."""
    origin: str
    revision: str | None
    licence: str | None
    licence_accepted: bool
    weight: float | None
    rows: int = 0
    ties: int = 0
    ended: bool = False
    """Whether there was nothing more to read."""
    path: str | None = None
    """Where the file lies."""

    def count(self, pairs: Labelled) -> Labelled:
        """Pass labelled rows on and count them."""
        for pair in pairs:
            self.rows += 1
            self.ties += pair is None
            yield pair
        self.ended = True


@dataclass(frozen=True, slots=True)
class Mixture:
    """Labelled rows with the places that they come from, which count while they are read."""

    pairs: Labelled
    parts: tuple[MixturePart, ...] = field(default=())

    @property
    def source(self) -> str:
        """Return the names of the sources."""
        return " + ".join(part.source for part in self.parts)

    @property
    def origin(self) -> str:
        """Return where the sources have their rows from."""
        return " + ".join(part.origin for part in self.parts)

    @property
    def revision(self) -> str | None:
        """Return the revision of a single source; of several, each part has its own."""
        return self.parts[0].revision if len(self.parts) == 1 else None

    @property
    def early_end(self) -> str | None:
        """Say which weighted source ended first and so ended the reading; None if none did."""
        for part in self.parts:
            if len(self.parts) > 1 and part.weight is not None and part.ended:
                return (
                    f"Source {part.source!r} ended after {part.rows} rows, and so the reading: "
                    "the shares could not hold any longer."
                )
        return None

    def describe_parts(self) -> list[dict[str, Any]]:
        """Return what was read of each source, in a form that JSON can hold."""
        total = sum(part.rows for part in self.parts)
        return [
            {
                "source": part.source,
                "origin": part.origin,
                "path": part.path,
                "revision": part.revision,
                "licence": part.licence,
                "licence_accepted": part.licence_accepted,
                "weight": part.weight,
                "rows": part.rows,
                "ties": part.ties,
                "share": part.rows / max(total, 1),
                "ended": part.ended,
            }
            for part in self.parts
        ]


def open_rows(
    axis: Axis,
    *,
    data: str | Sequence[str] | None,
    base: str,
    limit: int | None,
    revision: str | None,
    seed: int,
    data_licence: str | None = None,
    accept_licence: bool = False,
    note: Callable[[str], None] | None = None,
    asked: AskedBase | None = None,
) -> Mixture:
    """Open sources by their names and files by their paths; without any, the base's default.

    `data_licence` is that of the files; `asked` the base that sources may ask for answers.
    """
    texts = (data,) if isinstance(data, str) else tuple(data or _default_data(axis, base))
    wanted = read_wanted(axis, texts, revision)
    if data_licence is not None:
        wanted = _licensed(wanted, data_licence)
    return open_wanted(
        axis,
        wanted,
        limit=limit,
        seed=seed,
        accept_licence=accept_licence,
        note=note,
        asked=asked,
    )


def open_wanted(
    axis: Axis,
    wanted: Sequence[WantedRows],
    *,
    limit: int | None,
    seed: int,
    accept_licence: bool = False,
    note: Callable[[str], None] | None = None,
    asked: AskedBase | None = None,
) -> Mixture:
    """Open the sources and files that are named."""
    # Every licence is shown before anything is read.
    restricted = set()
    for each in wanted:
        if each.is_file:
            shown = check_licence(
                axis, f"file {Path(each.name).name}", each.licence, accepted=accept_licence
            )
        else:
            shown = check_source_licence(axis, each.name, accepted=accept_licence)
        if shown:
            restricted.add(each.name)
            if note is not None:
                note(shown)
    parts: list[MixturePart] = []
    streams: list[Labelled] = []
    for each in wanted:
        if each.is_file:
            path = Path(each.name)
            place = str(path.resolve())
            part = MixturePart(
                "file", path.name, None, each.licence, each.name in restricted, each.weight,
                path=place,
            )  # fmt: skip
            stream: Labelled = (pair for _, pair in read_preference_file(path))
        else:
            licence = axis.licence_of(each.name)
            request = SourceRequest(limit, each.revision, seed, asked)
            found = read_source(axis, each.name, request)
            if each.revision is not None and found.revision is None:
                raise UsageError(
                    f"Source {each.name!r} of axis {axis.name!r} has no revisions to pin."
                )
            part = MixturePart(
                each.name,
                found.origin,
                found.revision,
                licence,
                each.name in restricted,
                each.weight,
            )
            stream = label_rows(axis, found.rows)
        parts.append(part)
        streams.append(part.count(stream))
    weights = [each.weight for each in wanted if each.weight is not None]
    return Mixture(islice(interleave(streams, weights or None), limit), tuple(parts))


def default_source(axis: Axis, base: str) -> str:
    """Name the one source that stands for an axis on a base."""
    own = _own_source(axis, base)
    return next(iter(axis.sources)) if own is None else own


def _default_data(axis: Axis, base: str) -> tuple[str, ...]:
    own = _own_source(axis, base)
    return (own,) if own else axis.default_data or (default_source(axis, base),)


def _own_source(axis: Axis, base: str) -> str | None:
    # A base that knows a closed world may know no words but those of it; another one may have
    # pairs of its own answers.
    found = find_bundled(base)
    if found is None:
        return None
    own = found.name if found.world is None else found.world.name
    return own if own in axis.sources else None


def interleave(
    streams: Sequence[Iterator[Item]], weights: Sequence[float] | None
) -> Iterator[Item]:
    """Yield the items of all streams, in an order that depends on nothing but the weights.

    With weights, each stream has its share at every point, to within one item, and all ends where
    the first stream does. Without, the streams take turns until each has ended.
    """
    alive = list(range(len(streams)))
    taken = [0] * len(streams)
    shares = weights or [1.0] * len(streams)
    while alive:
        total = sum(shares[index] for index in alive)
        step = sum(taken[index] for index in alive) + 1
        turn = max(alive, key=lambda index: shares[index] / total * step - taken[index])
        try:
            item = next(streams[turn])
        except StopIteration:
            if weights is not None:
                return
            alive.remove(turn)
        else:
            taken[turn] += 1
            yield item
