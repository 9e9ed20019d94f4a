"""The processes of one run: what they agree on, what each does, and models in shards (FSDP 2).

The libraries that train know nothing of it: each process is alone for them, and what the processes
exchange is exchanged here. Where there is one process, nothing is.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import count
from types import FrameType, MethodType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from prefreg import launch
from prefreg.errors import PrefregError, TrainingError, reason
from prefreg.models.loading import quiet

T = TypeVar("T")
GRACE = 20.0
"""Seconds between the signal to end and the end: torchrun itself waits for thirty."""
_PATIENCE = timedelta(hours=12)
"""A process may ask its base for rows, or measure, while the others wait. One that is gone is
noticed at once."""
_WITHIN = "prefreg_within"
_GONE = (
    "Another of the {} processes of this run is gone. What is done is kept: the same command goes "
    "on from here, with as many processes or another number."
)


@dataclass(slots=True, eq=False)
class Ranks:
    """This process among those of a run."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    sharded: bool = False
    """Whether each process holds a part of every weight, with its gradient and moments."""
    ending: bool = False
    """Whether the system, or whoever started the processes, wants them to end."""
    _mesh: DeviceMesh | None = None

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and tells."""
        return self.rank == 0

    def to_json(self) -> dict[str, Any]:
        """Return what is recorded where there are several."""
        if self.world == 1:
            return {}
        return {"processes": {"count": self.world, "shards": self.world if self.sharded else 1}}

    def share(self, value: T) -> T:
        """Return what the first process has."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Return what each process has."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def once(self, function: Callable[[], T]) -> T:
        """Carry out in the first process; the others get what it returns, or raise what it raises.

        What it raises must not be an interrupt, which ends the process by itself.
        """
        if self.world == 1:
            return function()
        found: T | None = None
        error: Exception | None = None
        if self.first:
            try:
                found = function()
            except Exception as caught:  # whatever it is, the others must not wait
                error = caught
        known = error is None or isinstance(error, PrefregError | torch.OutOfMemoryError)
        told = error if known else TrainingError(f"The first process failed: {reason(error)}")  # type: ignore[arg-type]
        found, told = self.share((found, told))
        if told is not None:
            raise error or told
        return found  # type: ignore[return-value]

    def first_then_all(self, function: Callable[[], T]) -> T:
        """Carry out in the first process, then in the others, who find what it left in caches."""
        done: list[T] = []
        self.once(lambda: done.append(function()))
        return done[0] if done else function()

    def agreed(self, function: Callable[[], T]) -> T:
        """Ask a model something: together where it is sharded, else by the first process alone."""
        return self.share(function()) if self.sharded else self.once(function)

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Return of each flag whether any process has it up."""
        if self.world == 1:
            return list(flags)
        found = torch.tensor([int(flag) for flag in flags])
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return [bool(flag) for flag in found]

    def add_up(self, tensors: Iterable[torch.Tensor]) -> None:
        """Sum each tensor over the processes, in place."""
        for tensor in tensors:
            dist.all_reduce(tensor)

    def deal(self, parts: Sequence[T]) -> list[tuple[T, bool]]:
        """Return the parts of this process, as many as every other has, and which of them count.

        A shard is needed by all at the same time, so who has no part left repeats the last one.
        """
        rounds = -(-len(parts) // self.world)
        places = range(self.rank, rounds * self.world, self.world)
        return [(parts[min(place, len(parts) - 1)], place < len(parts)) for place in places]

    def in_turn(self, load: Callable[[], T]) -> T:
        """Carry out in one process a machine at a time, as memory must suffice for one alone."""
        found: list[T] = []
        for turn in range(1 + max(self.gather(self.local_rank))):
            if turn == self.local_rank:
                found.append(load())
            self.gather(None)
        return found[0]

    def mesh(self, device: torch.device) -> DeviceMesh:
        """Join the devices that models are dealt out to; all processes must do so together."""
        if self._mesh is None:
            self._mesh = init_device_mesh(device.type, (self.world,))
        return self._mesh

    def shard(self, model: PreTrainedModel, mesh: DeviceMesh) -> None:
        """Leave this process its part of every weight, on its device; a layer is gathered to run.

        Weights keep their precision: what autocast makes of them is made as in one process.
        """
        made: Any = model
        layers = set(model._no_split_modules or ())
        for module in reversed(list(model.modules())):
            if type(module).__name__ in layers:
                fully_shard(module, mesh=mesh)
        # Else the root stays gathered, and what is written to its parts would not be seen.
        fully_shard(made, mesh=mesh, reshard_after_forward=True)
        setattr(made, _WITHIN, MethodType(_within, made))
        register_fsdp_forward_method(made, _WITHIN)
        # By this name transformers lets every process take part in every step of an answer.
        made._is_fsdp_managed_module = True


ALONE = Ranks()
_ranks = ALONE


def current() -> Ranks:
    """Return the processes that this one is among; mostly it is alone."""
    return _ranks


def _within(model: Any, function: Callable[..., T], *args: Any) -> T:
    return function(model, *args)


def within(model: Any, function: Callable[..., T], *args: Any) -> T:
    """Call `function(model, *args)`, which may use every layer, while a sharded model lets it."""
    if isinstance(model, FSDPModule):
        found: T = getattr(model, _WITHIN)(function, *args)
        return found
    return function(model, *args)


def own(tensor: torch.Tensor) -> torch.Tensor:
    """Return the part of a tensor that this process holds; mostly all of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Gather a tensor, in all processes together; mostly it is whole already."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_rows(tensor: torch.Tensor) -> slice:
    """Return which rows of a tensor this process holds."""
    rows = tensor.shape[0]
    if not isinstance(tensor, DTensor):
        return slice(0, rows)
    each = -(-rows // current().world)
    start = min(current().rank * each, rows)
    stop = min(start + each, rows)
    if stop - start != len(tensor.to_local()):
        raise AssertionError(f"{stop - start} rows were expected, of {tuple(tensor.shape)}")
    return slice(start, stop)


def laid_out(tensor: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """Make a tensor like another one, of which this process holds `part`."""
    if not isinstance(tensor, DTensor):
        return part
    make: Any = DTensor.from_local
    made: torch.Tensor = make(
        part.to(tensor.device),
        tensor.device_mesh,
        tensor.placements,
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )
    return made


def is_lost(error: BaseException) -> bool:
    """Whether an error is that another process does not answer."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error).lower()
    )


@contextmanager
def several(started: launch.Launch, *, shard: bool = False) -> Iterator[Ranks]:
    """Join the processes of a run, if there are any, for the length of a `with` block.

    Raises:
        TrainingError: They are not what was asked for, or one of them is gone.
    """
    global _ranks
    if started.world == 1:
        yield ALONE
        return
    if dist.is_initialized():
        raise TrainingError("This process is in a group already: leave that to prefreg.")
    world = started.world
    try:
        store = _store(f"prefreg/{next(_joined)}", _meet(started.rank, world))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=store,
            rank=started.rank,
            world_size=world,
            timeout=_PATIENCE,
        )
    except (ValueError, RuntimeError) as error:
        raise TrainingError(
            f"The {world} processes of this run do not find each other: {reason(error)}. Start "
            "them by torchrun (docs/scale.md)."
        ) from error
    _ranks = Ranks(started.rank, world, started.local_rank, shard)
    launch.tell_by(lambda: _claim(store))
    try:
        with quiet(), _heeding_the_end(_ranks):  # transformers warns that it trains alone
            _check_devices(_ranks)
            if torch.cuda.is_available():
                torch.cuda.init()  # type: ignore[no-untyped-call]  # else a mesh guesses whose GPU is whose
            yield _ranks
    except Exception as error:
        if is_lost(error):
            raise TrainingError(_GONE.format(world)) from error
        raise
    finally:
        _ranks = ALONE
        with suppress(Exception):  # whoever is gone cannot say good-bye
            dist.destroy_process_group()


_joined = count()
_store: Any = dist.PrefixStore  # type: ignore[attr-defined]


@cache
def _meet(rank: int, world: int) -> Any:
    """Find the place where the processes of torchrun, or of a first process, leave messages."""
    meeting: Any = dist
    store, *_ = next(meeting.rendezvous("env://", rank, world))
    return store


def _claim(store: Any) -> bool:
    """Whether this process is the first that wants to say why the run ended."""
    try:
        return bool(store.add("told", 1) == 1)
    except Exception:  # whoever kept the count is gone
        return True


def _check_devices(ranks: Ranks) -> None:
    counts = ranks.gather(torch.cuda.device_count())
    if max(counts) > 1:
        raise TrainingError(
            "The processes of a run take one GPU each: start them by torchrun or accelerate, "
            "before anything has used a GPU."
        )
    if without := [rank for rank, count in enumerate(counts) if not count and max(counts)]:
        raise TrainingError(
            f"{len(counts)} processes were started, and process {without[0]} has no GPU of its "
            "own: start as many on each machine as it has GPUs."
        )


@contextmanager
def _heeding_the_end(ranks: Ranks) -> Iterator[None]:
    """Let the signal to end end the step and save, as Ctrl-C does; who cannot says so in time.

    A process that waits for one that is gone may never come back to Python, so a thread watches.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        ranks.ending = True

    def watch() -> None:
        while signals := os.read(heard, 1):
            if signals[0] == signal.SIGTERM and not over.wait(GRACE):
                if launch.tells():
                    print(f"Error: {_GONE.format(ranks.world)}", file=sys.stderr, flush=True)
                os._exit(TrainingError.exit_code)
        os.close(heard)

    heard, told = os.pipe()
    os.set_blocking(told, False)
    over = threading.Event()
    before = signal.signal(signal.SIGTERM, note)
    woken = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGTERM, before)
        os.close(told)
