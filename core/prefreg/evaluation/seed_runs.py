"""The vectors of several seeds with one configuration: found where they are stored, or trained."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from prefreg.axes.axis import PreferencePair
from prefreg.checkpoints import BaseModel
from prefreg.composition.resolve import base_spec, identify
from prefreg.config import default_registry, registry_setting
from prefreg.data.mixture import Mixture, MixturePart
from prefreg.errors import UsageError
from prefreg.evaluation.evaluation_request import ConsistencyRequest
from prefreg.files import Source
from prefreg.progress import Progress, progress_of
from prefreg.registry import Access, VersionRecord
from prefreg.registry.database import file_of
from prefreg.training.add_axis import add_prepared, prepare
from prefreg.training.axis_run import AxisRun, find_stored

Role = Literal["seed", "half", "null"]


@dataclass(frozen=True, slots=True)
class Run:
    """A vector that takes part."""

    role: Role
    seed: int
    record: VersionRecord
    source: Source
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
    gathering = _Gathering(access, request, first, progress, note)
    max_length = first.max_length
    found = SeedRuns(first.base, max_length, "same")
    everything = [*first.pairs.train, *first.pairs.heldout]
    seen: set[object] = set()
    for seed in request.seeds:
        pairs = given_pairs(everything, "all.jsonl") if request.same_pairs else None
        run, prepared = gathering.take("seed", seed, pairs, f"seed {seed}")
        if prepared.pairs.fingerprint != first.pairs.fingerprint:
            found.pairs = "drawn"
        seen.update(map(group_of, prepared.pairs.train))
        found.runs.append(run)
    for role, seed, pairs, name in _derived(request, first):
        found.runs.append(gathering.take(role, seed, pairs, name)[0])
    found.heldout = [pair for pair in first.told_pairs.heldout if group_of(pair) not in seen]
    found.left_out = len(first.pairs.heldout) - len(found.heldout)
    return found


@dataclass(frozen=True, slots=True)
class SeedVector:
    """The stored vector of one run, and where it is."""

    record: VersionRecord
    place: Access
    trained: bool
    """Whether it was trained now and not found."""


def find_or_train(
    run: AxisRun,
    places: Sequence[Access],
    target: Access,
    begin: Callable[[], None],
    progress: Progress | None,
) -> SeedVector:
    """Find the version of a run in the first place that has it, else train it into the target.

    `begin` is called before a training.
    """
    for place in places:
        if record := find_stored(place, run):
            return SeedVector(record, place, False)
    begin()
    return SeedVector(add_prepared(target, run, progress), target, True)


def given_pairs(pairs: Iterable[PreferencePair], name: str) -> Mixture:
    """Return pairs that are there already, as the rows of a file of this name."""
    part = MixturePart("file", name, None, None, False, None)
    return Mixture(part.count(iter(pairs)), (part,))


@dataclass(slots=True)
class _Gathering:
    """Looks for a version in the registry and the scratch registry, and adds it where missing."""

    access: Access
    asked: ConsistencyRequest
    first: AxisRun
    progress: Progress | None
    note: Callable[[str], None] | None
    told: bool = False

    def take(self, role: Role, seed: int, pairs: Mixture | None, name: str) -> tuple[Run, AxisRun]:
        # The base is pinned: a scratch registry has a last base of its own.
        request = replace(self.asked.axis, seed=seed, base=base_spec(identify(self.first.base)))
        if pairs is not None:
            request = replace(request, length_balanced=False)
        # Shuffled labels teach nothing, which is what the guards look for.
        request = replace(request, note=name, keep_anyway=request.keep_anyway or role == "null")
        prepared = prepare(self.access, request, None, pairs)
        scratch = Access(self.asked.scratch)
        target = self.access if self.asked.store and role == "seed" else scratch

        def begin() -> None:
            self._tell(target)
            if target is scratch:
                # What cannot be written, or bears the name of another, is told before the training.
                axis = prepared.axis
                with scratch.writing() as store:
                    store.check_names(axis.name, axis.aliases)

        progress = progress_of(self.progress, name)
        found = find_or_train(prepared, (self.access, scratch), target, begin, progress)
        with found.place.reading() as store:
            source, where = store.vector_source(found.record), str(store.location)
        return Run(role, seed, found.record, source, where, found.trained), prepared

    def _tell(self, target: Access) -> None:
        if self.note is None or self.told:
            return
        self.told = True
        name = self.first.axis.name
        self.note(
            f"Training what is missing into {self.asked.scratch}, which leaves {name!r} as it is."
            if target is not self.access
            else f"Training what is missing into the registry: the newest will be {name!r}."
        )


def _derived(
    request: ConsistencyRequest, first: AxisRun
) -> Iterator[tuple[Role, int, Mixture, str]]:
    """Yield the runs on changed pairs of the first seed: role, seed, pairs and name."""
    for split in range(request.halves):
        for side, half in enumerate(cut_in_halves(first.pairs.train, seed=split)):
            pairs = given_pairs(half, f"half-{split}-{side}.jsonl")
            yield "half", request.seeds[side], pairs, f"half {side + 1} of split {split + 1}"
    for draw in range(request.null):
        shuffled = shuffle_labels([*first.pairs.train, *first.pairs.heldout], seed=draw)
        pairs = given_pairs(shuffled, f"null-{draw}.jsonl")
        yield "null", request.seeds[draw % len(request.seeds)], pairs, f"shuffled labels {draw + 1}"


def cut_in_halves(
    pairs: Sequence[PreferencePair], *, seed: int
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Cut pairs into two parts of about one size that share no group."""
    groups: dict[object, list[PreferencePair]] = {}
    for pair in pairs:
        groups.setdefault(group_of(pair), []).append(pair)
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


def group_of(pair: PreferencePair) -> object:
    """Return what a pair may share with others."""
    return pair.prompt if pair.group is None else pair.group


def _check_scratch(access: Access, scratch: Path) -> None:
    location = file_of(access.location or registry_setting() or default_registry())
    if "://" not in str(location) and Path(location).resolve() == scratch.resolve():
        raise UsageError(
            f"{scratch} is the registry itself. Name another file with --scratch, or take "
            "--store to keep the versions there."
        )
