"""Carrying a composition out a block at a time by a few threads; memory does not grow with it."""

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import torch

from prefreg.checkpoints.safetensors_file import plan_file
from prefreg.checkpoints.safetensors_io import read_into, write_at
from prefreg.composition.engine import require_finite
from prefreg.composition.layout import METADATA, OutputFile, OutputTensor
from prefreg.composition.methods.linear import LINEAR
from prefreg.composition.plan import OpenPlan, TensorTerm, blamed_on, label
from prefreg.composition.rounding import Rounding
from prefreg.composition.survival import Survival, SurvivalMeter, Tally
from prefreg.composition.workspace import Workspace
from prefreg.errors import BaseModelError
from prefreg.methods import Combine
from prefreg.vectors.dense import DenseVector
from prefreg.vectors.tensors import (
    BLOCK_ELEMENTS,
    TORCH_DTYPES,
    blocks,
    read_elements,
    require_readable,
    to_bytes,
    unreadable,
)

Progress = Callable[[int, int, str], None]
"""Told the bytes written, the bytes there are to write, and the tensor just written."""

THREADS = min(4, os.cpu_count() or 1)
"""More only wait for each other: reading and adding share one memory bus."""

# Large enough that handing a job over costs nothing beside it, small enough to share the work.
_JOB_ELEMENTS = 4 * BLOCK_ELEMENTS
_COPY_BYTES = 1 << 20
_AHEAD = 2 * THREADS


@dataclass(frozen=True, slots=True)
class _Job:
    """A piece of one tensor, and where in which file it goes."""

    tensor: OutputTensor
    terms: Sequence[TensorTerm]
    combine: Future[Combine] | None
    """What the method adds to a block; None for the plain sum."""
    start: int
    stop: int
    target: int
    place: int

    @property
    def nbytes(self) -> int:
        """How many bytes it writes."""
        return self.tensor.nbytes * (self.stop - self.start) // self.tensor.stored.spec.elements


def write_weights(
    plan: OpenPlan,
    files: Sequence[OutputFile],
    folder: Path,
    *,
    rounding: Rounding,
    device: torch.device,
    durable: bool,
    progress: Progress | None = None,
) -> Survival | None:
    """Write every weight file of a composition and return what the rounding left of it.

    Blocks are written at their final places in whatever order they are ready; their tallies are
    added up in one order, so that equal plans give equal reports.

    Raises:
        OSError: A file cannot be written.
        VectorError: A vector cannot be read, or holds or makes numbers that are not finite.
        BaseModelError: The same of the base.
    """
    meter = SurvivalMeter()
    total = sum(file.nbytes for file in files)
    done = 0
    with closing(_Sources()) as sources, ExitStack() as targets, _workers() as pool:
        worker = _Worker(plan, sources, rounding, device)
        for file in files:
            target = targets.enter_context((folder / file.name).open("xb", buffering=0))
            jobs = _jobs(plan, file, target.fileno(), pool)
            for job, tally in _in_order(pool, worker, jobs):
                meter.add(job.tensor.stored.spec.name, tally)
                done += job.nbytes
                if progress and job.stop == job.tensor.stored.spec.elements:
                    progress(done, total, job.tensor.stored.spec.name)
            if durable:
                os.fsync(target.fileno())
    return meter.result()


def estimate_seconds(
    plan: OpenPlan, files: Sequence[OutputFile], *, rounding: Rounding, device: torch.device
) -> float:
    """Say how long a composition may take: one job is carried out, written nowhere, and scaled up.

    Raises:
        VectorError: A vector cannot be read.
        BaseModelError: The base cannot be read.
    """
    tensors = [tensor for file in files for tensor in file.tensors if tensor.stored.spec.elements]
    if not tensors:
        return 0.0
    largest = max(tensors, key=lambda tensor: tensor.nbytes)
    total = sum(tensor.nbytes for tensor in tensors)
    with (
        closing(_Sources()) as sources,
        _workers() as pool,
        open(os.devnull, "wb", buffering=0) as nowhere,
    ):
        worker = _Worker(plan, sources, rounding, device)
        job = next(_jobs_of(plan, largest, nowhere.fileno(), 0, pool))
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
    for start, stop in blocks(elements, _JOB_ELEMENTS):
        place = offset + tensor.nbytes * start // elements
        yield _Job(tensor, terms, combine, start, stop, target, place)


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
def _workers() -> Iterator[ThreadPoolExecutor]:
    # Threads of torch inside of ours would fight over the same cores. Torch remembers the number
    # for threads that come later, hence the last line.
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(THREADS, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


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


class _Worker:
    """Carry out a job; safe from several threads."""

    def __init__(
        self, plan: OpenPlan, sources: _Sources, rounding: Rounding, device: torch.device
    ) -> None:
        self._rounding = rounding
        self._plan = plan
        self._sources = sources
        self._spare = [Workspace(device) for _ in range(THREADS)]

    def __call__(self, job: _Job) -> Tally:
        stored = job.tensor.stored
        try:
            source = self._sources[stored.file]
        except OSError as error:
            raise unreadable(stored.file, error, BaseModelError) from error
        if not job.terms and job.tensor.dtype == stored.spec.dtype:
            self._copy(job, source)
            return Tally()
        require_readable(stored)
        return self._compose(job, source)

    def _copy(self, job: _Job, source: int) -> None:
        # Bytes, not numbers: dtypes that torch does not know pass through as well.
        spec = job.tensor.stored.spec
        first = spec.offset + spec.nbytes * job.start // spec.elements
        buffer = memoryview(bytearray(min(_COPY_BYTES, job.nbytes)))
        for start, stop in blocks(job.nbytes, _COPY_BYTES):
            part = buffer[: stop - start]
            with _reading(job):
                read_into(source, first + start, part)
            write_at(job.target, job.place + start, part)

    def _compose(self, job: _Job, source: int) -> Tally:
        space = self._spare.pop()
        try:
            tally = Tally()
            place = job.place
            for start, stop in blocks(job.stop - job.start):
                result = self._block(job, source, job.start + start, job.start + stop, space, tally)
                write_at(job.target, place, to_bytes(result))
                place += result.nbytes
            return tally
        finally:
            self._spare.append(space)

    def _block(
        self, job: _Job, source: int, start: int, stop: int, space: Workspace, tally: Tally
    ) -> torch.Tensor:
        spec, dtype = job.tensor.stored.spec, TORCH_DTYPES[job.tensor.dtype]
        room = space.room(0, stop - start, TORCH_DTYPES[spec.dtype])
        with _reading(job):
            base = read_elements(source, spec, start, stop, room)
        phis = [_read(term, start, stop, space, place) for place, term in enumerate(job.terms, 2)]
        etas: Sequence[float] = [term.eta for term in job.terms]
        if job.combine is not None:
            combine = job.combine.result()
            with blamed_on(self._plan.plan.method, spec.name):
                phis = list(combine(start, [phi.to(torch.float32) for phi in phis]))
            etas = [1.0] * len(phis)

        def round_into(room: torch.Tensor, total: torch.Tensor) -> None:
            self._rounding.round_into(room, total, spec.name, start)

        result = space.compose(base, phis, etas, dtype, tally, round_into)
        # The squares of what was added are finite only where the result is.
        if not job.terms or not math.isfinite(tally.got):
            vectors = ((label(term.record), term.block(start, stop)) for term in job.terms)
            require_finite(spec.name, result, base, vectors)
        return result


def _read(term: TensorTerm, start: int, stop: int, space: Workspace, place: int) -> torch.Tensor:
    """Read a block of φ, of a dense vector in its own dtype."""
    if isinstance(term.vector, DenseVector):
        room = space.room(place, stop - start, TORCH_DTYPES[term.vector.dtype])
        return term.vector.stored.read_into(room, term.name, start, stop)
    return term.block(start, stop)


@contextmanager
def _reading(job: _Job) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError) as error:
        raise unreadable(job.tensor.stored.file, error, BaseModelError) from error
