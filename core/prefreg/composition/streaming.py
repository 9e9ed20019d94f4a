"""Carrying a composition out a block at a time by a few threads; memory does not grow with it."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from prefreg.axes.methods import Method
from prefreg.checkpoints.safetensors_file import plan_file, read_into, write_at
from prefreg.composition.layout import METADATA, OutputFile, OutputTensor, WeightWork
from prefreg.composition.methods import LINEAR
from prefreg.composition.plan import OpenPlan
from prefreg.composition.rounding import NEAREST, Rounding, Survival, SurvivalMeter, Tally
from prefreg.errors import BaseModelError, unreadable
from prefreg.vectors.stored import BLOCK_ELEMENTS, blocks

if TYPE_CHECKING:
    from prefreg.composition.compiled import PlainBlocks
    from prefreg.composition.engine import GeneralBlocks

from prefreg.progress import Progress

THREADS = min(4, os.cpu_count() or 1)
"""More only wait for each other: reading and adding share one memory bus."""

JOB_ELEMENTS = 4 * BLOCK_ELEMENTS
"""Large enough that handing a job over costs nothing, small enough to share the work."""

_COPY_BYTES = 1 << 20
_AHEAD = 2 * THREADS


def buffer_bytes(vectors: int) -> int:
    """Say what the blocks of all threads take at most for so many vectors."""
    rooms, rows = vectors + 2, vectors + 4
    return THREADS * (rooms + rows) * 4 * BLOCK_ELEMENTS


@dataclass(frozen=True, slots=True)
class _Job:
    """A piece of one weight, and where in which file it goes."""

    work: WeightWork
    start: int
    stop: int
    target: int
    place: int

    @property
    def nbytes(self) -> int:
        """How many bytes it writes."""
        tensor = self.work.tensor
        return tensor.nbytes * (self.stop - self.start) // tensor.stored.spec.elements


def write_weights(
    plan: OpenPlan,
    files: Sequence[OutputFile],
    folder: Path,
    *,
    rounding: Rounding,
    device: str,
    durable: bool,
    progress: Progress | None = None,
) -> Survival | None:
    """Write every weight file of a composition and return what the rounding left of it.

    Blocks are written at their final places in whatever order they are ready; their tallies are
    added up in one order, so that equal plans give equal reports.
    """
    meter = SurvivalMeter()
    total = sum(file.nbytes for file in files)
    done = 0
    worker = _Worker(plan, rounding, device)
    torch_too = worker.needs_torch_for(files)
    with closing(worker), ExitStack() as targets, _workers(torch_too=torch_too) as pool:
        for file in files:
            target = targets.enter_context((folder / file.name).open("xb", buffering=0))
            jobs = _jobs(plan, file, target.fileno(), pool)
            for job, tally in _in_order(pool, worker, jobs):
                meter.add(job.work.name, tally)
                done += job.nbytes
                if progress and job.stop == job.work.tensor.stored.spec.elements:
                    progress(job.work.name, done, total)
            if durable:
                os.fsync(target.fileno())
    return meter.result()


def estimate_seconds(
    plan: OpenPlan, files: Sequence[OutputFile], *, rounding: Rounding, device: str
) -> float:
    """Say how long a composition may take: of one job that is written nowhere, scaled up."""
    tensors = [tensor for file in files for tensor in file.tensors if tensor.stored.spec.elements]
    if not tensors:
        return 0.0
    largest = max(tensors, key=lambda tensor: tensor.nbytes)
    total = sum(tensor.nbytes for tensor in tensors)
    worker = _Worker(plan, rounding, device)
    with (
        closing(worker),
        _workers(torch_too=worker.needs_torch_for(files)) as pool,
        open(os.devnull, "wb", buffering=0) as nowhere,
    ):
        job = next(_jobs_of(plan, largest, nowhere.fileno(), 0, pool))
        pool.submit(worker, job).result()  # loads libraries, which is done once
        began = time.perf_counter()
        pool.submit(worker, job).result()
        spent = time.perf_counter() - began
    return spent * max(1.0, total / job.nbytes / THREADS)


def _jobs(
    plan: OpenPlan, file: OutputFile, target: int, pool: ThreadPoolExecutor
) -> Iterator[_Job]:
    tensors = {tensor.stored.spec.name: tensor for tensor in file.tensors}
    header, specs = plan_file(file.entries(), METADATA)
    os.truncate(target, len(header) + file.nbytes)
    write_at(target, 0, header)
    for spec in specs:
        tensor = tensors[spec.name]
        yield from _jobs_of(plan, tensor, target, spec.offset, pool)


def _jobs_of(
    plan: OpenPlan, tensor: OutputTensor, target: int, offset: int, pool: ThreadPoolExecutor
) -> Iterator[_Job]:
    elements = tensor.stored.spec.elements
    terms = plan.terms_of(tensor.stored)
    combine = None
    if terms and plan.plan.method is not LINEAR:
        combine = pool.submit(plan.combine, tensor.stored, terms)
    work = WeightWork(tensor, terms, combine)
    for start, stop in blocks(elements, JOB_ELEMENTS):
        yield _Job(work, start, stop, target, offset + tensor.nbytes * start // elements)


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[_Job], Tally], jobs: Iterator[_Job]
) -> Iterator[tuple[_Job, Tally]]:
    """Run jobs on the pool, few ahead of the one whose result is due."""
    waiting: deque[tuple[_Job, Future[Tally]]] = deque()
    for job in jobs:
        waiting.append((job, pool.submit(work, job)))
        if len(waiting) > _AHEAD:
            first, result = waiting.popleft()
            yield first, result.result()
    for job, result in waiting:
        yield job, result.result()


@contextmanager
def _workers(*, torch_too: bool) -> Iterator[ThreadPoolExecutor]:
    if not torch_too:
        with _closing(ThreadPoolExecutor(THREADS)) as pool:
            yield pool
        return
    import torch

    # Threads of torch inside of ours would fight over the same cores. Torch remembers the number
    # for threads that come later, hence the last line.
    before = torch.get_num_threads()
    try:
        with _closing(ThreadPoolExecutor(THREADS, "compose", torch.set_num_threads, (1,))) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


@contextmanager
def _closing(pool: ThreadPoolExecutor) -> Iterator[ThreadPoolExecutor]:
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


class _Sources:
    """The base's weight files, each opened once."""

    def __init__(self) -> None:
        self._open: dict[Path, int] = {}
        self._lock = Lock()

    def __getitem__(self, path: Path) -> int:
        with self._lock:  # two threads must not open a file twice and lose one of the two
            if path not in self._open:
                self._open[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            return self._open[path]

    def close(self) -> None:
        for file in self._open.values():
            os.close(file)
        self._open.clear()


class _Room:
    """What one thread composes in; each way loads its library when it is first needed."""

    def __init__(self, method: Method, rounding: Rounding, device: str) -> None:
        self._choice = method, rounding, device

    @cached_property
    def plain(self) -> "PlainBlocks":
        """For what is plain; it loads the compiler."""
        from prefreg.composition.compiled import PlainBlocks

        return PlainBlocks()

    @cached_property
    def general(self) -> "GeneralBlocks":
        """For what is not plain; it loads torch."""
        from prefreg.composition.engine import GeneralBlocks

        return GeneralBlocks(*self._choice)


class _Worker:
    """Carry out a job; safe from several threads."""

    def __init__(self, plan: OpenPlan, rounding: Rounding, device: str) -> None:
        self._plan = plan
        self._plain = device == "cpu" and rounding.kind == NEAREST
        self._sources = _Sources()
        method = plan.plan.method
        self._spare = [_Room(method, rounding, device) for _ in range(THREADS)]

    def __call__(self, job: _Job) -> Tally:
        work = job.work
        stored = work.tensor.stored
        try:
            source = self._sources[stored.file]
        except OSError as error:
            raise unreadable(stored.file, error, BaseModelError) from error
        if work.is_copy:
            self._copy(job, source)
            return Tally()
        return self._compose(job, source)

    def close(self) -> None:
        """Close the base's files."""
        self._sources.close()

    def needs_torch(self, work: WeightWork) -> bool:
        """Whether a weight cannot be composed without torch."""
        return not (work.is_copy or (self._plain and work.is_plain))

    def needs_torch_for(self, files: Sequence[OutputFile]) -> bool:
        """Whether any weight of the output needs it."""
        if self._plan.plan.method is not LINEAR:
            return True
        tensors = (tensor for file in files for tensor in file.tensors)
        works = (WeightWork(each, self._plan.terms_of(each.stored), None) for each in tensors)
        return any(map(self.needs_torch, works))

    def _copy(self, job: _Job, source: int) -> None:
        # Bytes, not numbers: dtypes that torch does not know pass through as well.
        spec = job.work.tensor.stored.spec
        first = spec.offset + spec.nbytes * job.start // spec.elements
        buffer = memoryview(bytearray(min(_COPY_BYTES, job.nbytes)))
        for start, stop in blocks(job.nbytes, _COPY_BYTES):
            part = buffer[: stop - start]
            with job.work.reading():
                read_into(source, first + start, part)
            write_at(job.target, job.place + start, part)

    def _compose(self, job: _Job, source: int) -> Tally:
        room = self._spare.pop()
        plain = not self.needs_torch(job.work)
        try:
            tally = Tally()
            place = job.place
            for first, last in blocks(job.stop - job.start):
                start, stop = job.start + first, job.start + last
                result = None
                if plain:
                    result = room.plain.compose(job.work, source, start, stop, tally)
                if result is None:  # the other way can tell whose numbers are not finite
                    result = room.general.compose(job.work, source, start, stop, tally)
                write_at(job.target, place, result)
                place += len(result)
            return tally
        finally:
            self._spare.append(room)
