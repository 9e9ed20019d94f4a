"""Look at everything that a run depends on."""

import importlib.metadata
import os
import platform
import shutil
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prefreg.axes.plugins import load_axes
from prefreg.config import cache_folder
from prefreg.errors import PrefregError
from prefreg.registry import Access
from prefreg.training.resume import Leftover, leftovers, remove_run, runs_folder

_PACKAGES = ("prefreg", "torch", "transformers", "trl", "datasets", "safetensors", "sqlalchemy")
_PATIENCE = 2.0
_LITTLE_DISK = 2 * 1024**3


@dataclass(frozen=True, slots=True)
class Examination:
    """Facts by name, and problems in words."""

    facts: dict[str, str]
    problems: tuple[str, ...]


def examine(access: Access) -> Examination:
    """Collect the facts of the environment and name what is wrong with it."""
    problems: list[str] = []
    facts = {
        "python": f"{platform.python_version()} on {platform.platform()}",
        "packages": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES),
        "devices": _devices(),
        "memory": _memory(),
    }
    free = shutil.disk_usage(Path.cwd()).free
    facts["disk"] = f"{free / 1024**3:.1f} GiB free in {Path.cwd()}"
    if free < _LITTLE_DISK:
        problems.append(f"Only {free / 1024**3:.1f} GiB of disk are free; training needs more.")
    facts["cache"] = f"{cache_folder()} ({_size(cache_folder()) / 1024:.0f} KiB)"
    facts["hub"] = _hub()
    facts["hub token"] = "set" if os.environ.get("HF_TOKEN") else "not set"
    problems += _registry(access, facts)
    problems += _plugins(facts)
    return Examination(facts, tuple(problems))


@dataclass(frozen=True, slots=True)
class EmptiedCache:
    """What was removed from the cache, with the runs that were not finished."""

    bytes: int
    runs: tuple[Leftover, ...]
    """Those that a process is carrying out stay."""


def empty_cache() -> EmptiedCache:
    """Remove what prefreg cached, but for runs that are under way."""
    folder = cache_folder()
    before = _size(folder)
    runs = tuple(leftovers())
    for run in runs:
        remove_run(run.folder)
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and path != runs_folder():
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_file():
            path.unlink(missing_ok=True)
    for path in (runs_folder(), folder):
        with suppress(OSError):  # it is not there, or somebody needs it
            path.rmdir()
    return EmptiedCache(max(0, before - _size(folder)), runs)


def _hub() -> str:
    """Say whether the hub answers, within a bound of seconds."""
    if os.environ.get("HF_HUB_OFFLINE"):
        return "offline"
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    answered = threading.Event()

    def ask() -> None:
        try:
            with suppress(urllib.error.HTTPError):  # which is an answer, too
                urllib.request.urlopen(endpoint, timeout=_PATIENCE).close()
        except (OSError, ValueError):
            return
        answered.set()

    # A name that cannot be resolved takes as long as the system likes, whatever the timeout.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_PATIENCE)
    return f"{endpoint} {'answers' if answered.is_set() else 'cannot be reached'}"


def _registry(access: Access, facts: dict[str, str]) -> list[str]:
    try:
        with access.reading() as store:
            disk = store.disk_use()
            facts["registry"] = (
                f"{store.location} ({sum(store.count().values())} versions, "
                f"{disk.total / 1024**2:.1f} MiB on the disk)"
            )
            return [str(problem) for problem in store.verify()]
    except PrefregError as error:
        facts["registry"] = "none"
        return [str(error)]


def _plugins(facts: dict[str, str]) -> list[str]:
    try:
        catalog = load_axes()
    except PrefregError as error:
        return [str(error)]
    facts["axes"] = ", ".join(found.axis.name for found in catalog.axes) or "none"
    if catalog.disabled:
        facts["disabled"] = ", ".join(map(str, catalog.disabled))
    return [f"The {plugin} is broken: {plugin.error}" for plugin in catalog.broken]


def _devices() -> str:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return ", ".join(names)
    return f"CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def _memory() -> str:
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return f"{pages * page / 1024**3:.1f} GiB"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
