"""What a run keeps until its version is stored, so that the same command can go on with it."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from prefreg.config import cache_folder
from prefreg.files import hash_bytes, hash_file, human_size, replacing, try_lock, write_whole
from prefreg.json_values import parse_json

if TYPE_CHECKING:
    import torch


RESUME_BYTES = 20
"""What is kept of a trained parameter: a finished pole, and in a checkpoint the weight with two
moments and its last sound value, in float32."""

_ABOUT = "run.json"
Note = Callable[[str], None]


@dataclass(slots=True)
class ResumeFolder:
    """A folder of one run, named by all that decides its result; one process holds it."""

    folder: Path
    note: Note | None

    def file(self, name: str) -> Path:
        """Return where the weights of a pole are kept."""
        return self.folder / f"{name}.safetensors"

    def keep(
        self, name: str, weights: "Mapping[str, torch.Tensor] | None", facts: dict[str, Any]
    ) -> None:
        """Keep a finished pole; it counts once its facts are there. Its file may be there already.

        `weights` are None where it is.
        """
        from safetensors.torch import save_file  # with it comes torch, which a look need not load

        file = self.file(name)
        if weights is not None:
            with replacing(file, durable=True) as partial:
                save_file(dict(weights), partial)
        _write(self.folder / f"{name}.json", {"sha256": hash_file(file), "facts": facts})
        shutil.rmtree(self.steps(name), ignore_errors=True)

    def recall(
        self, name: str, read: "Callable[[Path], Mapping[str, torch.Tensor]] | None" = None
    ) -> "tuple[Mapping[str, torch.Tensor], dict[str, Any]] | None":
        """Return a finished pole with its facts; None where there is none, or it is damaged.

        Its weights are loaded, unless `read` makes something else of their file.
        """
        from safetensors.torch import load_file

        file, facts = self.file(name), self.folder / f"{name}.json"
        if not facts.is_file():
            return None
        try:
            kept = parse_json(facts.read_bytes())
            if hash_file(file) == kept["sha256"]:
                return (read or load_file)(file), kept["facts"]
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            pass
        if self.note is not None:
            self.note(f"The finished {name} pole in {self.folder} is damaged; it is trained again.")
        facts.unlink(missing_ok=True)
        return None

    def steps(self, name: str) -> Path:
        """Return the folder for the checkpoints of a pole."""
        return self.folder / f"{name}-steps"

    def remove(self) -> None:
        """Forget the run, unless another process has taken it up meanwhile."""
        remove_run(self.folder)


@contextmanager
def open_resume_folder(
    content: Any, about: str, *, needed: int, fresh: bool = False, note: Note | None = None
) -> Iterator[ResumeFolder | None]:
    """Hold the folder of the run that `content` decides; None where there can be none.

    That is where another process carries out the same run, or the cache cannot be written or has
    no room for `needed` bytes. The run then only cannot be taken up again.
    """
    folder = _folder_of(content)
    lock, reason = _try_lock(folder)
    if lock is None:
        if note is not None:
            note(f"This run cannot be taken up again if it is ended: {reason}.")
        yield None
        return
    try:
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        yield _open(folder, about, needed, note)
    finally:
        # Kept where anything is there that a later process could go on from.
        kept = any(path.name != _ABOUT for path in folder.rglob("*") if path.is_file())
        _release(folder, lock, keep=kept)


def has_left(content: Any) -> bool:
    """Whether a run that `content` decides has left anything."""
    return _folder_of(content).is_dir()


def _folder_of(content: Any) -> Path:
    key = hash_bytes(json.dumps(content, sort_keys=True, default=str).encode())[:32]
    return runs_folder() / key


def remove_run(folder: Path) -> bool:
    """Remove the folder of a run; False where a process is carrying it out."""
    lock, _ = _try_lock(folder)
    if lock is None:
        return False
    _release(folder, lock, keep=False)
    return True


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a run that was not finished left."""

    about: str
    bytes: int
    busy: bool
    """Whether a process is carrying it out."""
    folder: Path


def leftovers() -> list[Leftover]:
    """Return what unfinished runs have left in the cache."""
    found = []
    for folder in sorted(path for path in runs_folder().glob("*") if path.is_dir()):
        lock, _ = _try_lock(folder)
        if lock is not None:
            os.close(lock)
        try:
            about = str(parse_json((folder / _ABOUT).read_bytes())["about"])
        except (OSError, ValueError, KeyError, TypeError):
            about = "unknown"
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        found.append(Leftover(about, size, lock is None, folder))
    return found


def runs_folder() -> Path:
    """Return where the folders of runs lie."""
    return cache_folder() / "runs"


def _open(folder: Path, about: str, needed: int, note: Note | None) -> ResumeFolder | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / _ABOUT).is_file():
            _write(folder / _ABOUT, {"about": about})
        short = shutil.disk_usage(folder).free < needed
    except OSError as error:
        short, reason = True, f"{folder} cannot be written: {error.strerror or error}"
    else:
        reason = f"{folder} needs {human_size(needed)} of disk, which are not free"
    if not short:
        return ResumeFolder(folder, note)
    if note is not None:
        note(f"This run cannot be taken up again if it is ended: {reason}.")
    return None


def _release(folder: Path, lock: int, *, keep: bool) -> None:
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            _lock_file(folder).unlink()
    os.close(lock)


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _try_lock(folder: Path) -> tuple[int | None, str]:
    """Lock a run; return the open lock, or why there is none."""
    path = _lock_file(folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = try_lock(path)
    except OSError as error:
        return None, f"{path} cannot be written: {error.strerror or error}"
    return lock, "" if lock is not None else "another process is carrying out the same run"


def _write(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(value), durable=True)
