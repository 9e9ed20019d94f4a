"""The vectors of several seeds with one configuration: found where they are stored, or trained."""

import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from prefreg.axes.axis import PreferencePair
from prefreg.checkpoints import BaseModel
from prefreg.composition.resolve import base_spec, identify
from prefreg.config import default_registry, registry_setting
from prefreg.errors import UsageError
from prefreg.evaluation.evaluation_request import ConsistencyRequest
from prefreg.models.loading import load_limits
from prefreg.progress import Progress, progress_of
from prefreg.registry import VersionRecord
from prefreg.registry.access import Access
from prefreg.training.add_axis import Prepared, add_axis, prepare
from prefreg.training.axis_request import AxisRequest
from prefreg.training.earlier import find_stored

Role = Literal["seed", "half", "null"]


@dataclass(frozen=True, slots=True)
class Run:
    """A vector that takes part."""

    role: Role
    seed: int
    record: VersionRecord
    source: Path | bytes
    """Where its bytes are."""
    registry: str
    trained: bool
    """Whether it was trained now and not found."""


@dataclass(slots=True)
class SeedRuns:
    """All vectors of a request, in the order seeds, halves, nulls, and pairs none has seen."""

    base: BaseModel
    max_length: int
    pairs: str
    """`same`, or `drawn` where each seed has pairs of its own."""
    runs: list[Run] = field(default_factory=list)
    heldout: Sequence[PreferencePair] = ()
    left_out: int = 0
    """Held-out pairs of the first seed that another one trained on."""

    def of(self, role: Role) -> list[Run]:
        """Return the runs with a role."""
        return [run for run in self.runs if run.role == role]


def gather_runs(
    access: Access,
    request: ConsistencyRequest,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> SeedRuns:
    """Find or train the vector of every seed, half and null.

    What has been trained is stored at once, so a run that is cut short goes on from there.
    """
    _check_scratch(access, request.scratch)
    first = prepare(access, replace(request.axis, seed=request.seeds[0]), note)
    shelf = _Shelf(access, request, first, progress, note)
    found = SeedRuns(first.base, shelf.max_length, "same")
    with tempfile.TemporaryDirectory(prefix="prefreg-") as folder:
        everything = _write([*first.pairs.train, *first.pairs.heldout], Path(folder) / "all.jsonl")
        seen: set[object] = set()
        for seed in request.seeds:
            data = everything if request.same_pairs else None
            run, prepared = shelf.take("seed", shelf.request(seed, data), f"seed {seed}")
            if prepared.pairs.fingerprint != first.pairs.fingerprint:
                found.pairs = "drawn"
            seen.update(map(_group, prepared.pairs.train))
            found.runs.append(run)
        for role, seed, data, name in _derived(request, first, Path(folder)):
            found.runs.append(shelf.take(role, shelf.request(seed, data), name)[0])
    found.heldout = [pair for pair in first.pairs.heldout if _group(pair) not in seen]
    found.left_out = len(first.pairs.heldout) - len(found.heldout)
    return found


@dataclass(slots=True)
class _Shelf:
    """Looks for a version in the registry and the scratch registry, and adds it where missing."""

    access: Access
    asked: ConsistencyRequest
    first: Prepared
    progress: Progress | None
    note: Callable[[str], None] | None
    max_length: int = field(init=False)
    told: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.max_length = self.first.settings.max_length(load_limits(self.first.base)[0])

    def request(self, seed: int, data: Path | None) -> AxisRequest:
        # The base is pinned: a scratch registry has a last base of its own.
        pinned = replace(self.asked.axis, seed=seed, base=base_spec(identify(self.first.base)))
        if data is None:
            return pinned
        return replace(pinned, data=str(data), limit=None, revision=None, length_balanced=False)

    def take(self, role: Role, request: AxisRequest, name: str) -> tuple[Run, Prepared]:
        prepared = prepare(self.access, request, None)
        scratch = Access(self.asked.scratch)
        for place in (self.access, scratch):
            if run := self._find(place, role, prepared, request.seed):
                return run, prepared
        target = self.access if self.asked.store and role == "seed" else scratch
        self._tell(target)
        if target is scratch:
            scratch.writing().close()  # a place that cannot be written is told before the training
        # Shuffled labels teach nothing, which is what the guards look for.
        request = replace(request, note=name, keep_anyway=request.keep_anyway or role == "null")
        record = add_axis(target, request, progress_of(self.progress, name))
        with target.reading() as store:
            where = str(store.location)
            return Run(
                role, request.seed, record, store.vector_source(record), where, True
            ), prepared

    def _find(self, place: Access, role: Role, wanted: Prepared, seed: int) -> Run | None:
        record = find_stored(place, wanted, seed)
        if record is None:
            return None
        with place.reading() as store:
            source = store.vector_source(record)
            return Run(role, seed, record, source, str(store.location), False)

    def _tell(self, target: Access) -> None:
        if self.note is None or self.told:
            return
        self.told = True
        name = self.first.installed.axis.name
        self.note(
            f"Training what is missing into {self.asked.scratch}, which leaves {name!r} as it is."
            if target is not self.access
            else f"Training what is missing into the registry: the newest will be {name!r}."
        )


def _derived(
    request: ConsistencyRequest, first: Prepared, folder: Path
) -> Iterator[tuple[Role, int, Path, str]]:
    """Yield the runs on changed pairs of the first seed: role, seed, file and name."""
    for split in range(request.halves):
        for side, pairs in enumerate(cut_in_halves(first.pairs.train, seed=split)):
            file = _write(pairs, folder / f"half-{split}-{side}.jsonl")
            yield "half", request.seeds[side], file, f"half {side + 1} of split {split + 1}"
    for draw in range(request.null):
        pairs = shuffle_labels([*first.pairs.train, *first.pairs.heldout], seed=draw)
        file = _write(pairs, folder / f"null-{draw}.jsonl")
        yield "null", request.seeds[draw % len(request.seeds)], file, f"shuffled labels {draw + 1}"


def cut_in_halves(
    pairs: Sequence[PreferencePair], *, seed: int
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Cut pairs into two parts of about one size that share no group."""
    groups: dict[object, list[PreferencePair]] = {}
    for pair in pairs:
        groups.setdefault(_group(pair), []).append(pair)
    shuffled = list(groups.values())
    random.Random(f"halves/{seed}").shuffle(shuffled)
    halves: tuple[list[PreferencePair], list[PreferencePair]] = ([], [])
    for group in shuffled:
        min(halves, key=len).extend(group)
    return halves


def shuffle_labels(pairs: Sequence[PreferencePair], *, seed: int) -> list[PreferencePair]:
    """Exchange chosen and rejected in a random half of the pairs."""
    draw = random.Random(f"null/{seed}")
    switched = set(draw.sample(range(len(pairs)), len(pairs) // 2))
    return [pair.switched() if place in switched else pair for place, pair in enumerate(pairs)]


def _group(pair: PreferencePair) -> object:
    return pair.prompt if pair.group is None else pair.group


def _write(pairs: Sequence[PreferencePair], path: Path) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for pair in pairs:
            file.write(json.dumps(pair.to_row(), ensure_ascii=False) + "\n")
    return path


def _check_scratch(access: Access, scratch: Path) -> None:
    location = access.location or registry_setting() or default_registry()
    if "://" not in str(location) and Path(location).resolve() == scratch.resolve():
        raise UsageError(
            f"{scratch} is the registry itself. Name another file with --scratch, or take "
            "--store to keep the versions there."
        )
