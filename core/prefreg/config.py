"""Where things lie: the registry, the cache, and the switches of the environment."""

import os
from pathlib import Path

from prefreg.errors import UsageError

STARTER_NAME = "starter.db"


def registry_setting() -> str | None:
    """Return `PREFREG_REGISTRY`, a path or a SQLAlchemy URL."""
    return os.environ.get("PREFREG_REGISTRY") or None


def blobs_setting() -> str | None:
    """Return `PREFREG_BLOBS`, the store that a new registry keeps its vectors in."""
    return os.environ.get("PREFREG_BLOBS") or None


def starter_registry() -> Path | None:
    """Return the read-only registry that ships with the package.

    A wheel carries it inside the package; in a clone it is the tracked `registry.db`.
    """
    package = Path(__file__).parent
    for candidate in (package / STARTER_NAME, package.parent.parent / "registry.db"):
        if candidate.is_file():
            return candidate
    return None


def is_starter(path: str | os.PathLike[str]) -> bool:
    """Whether a path is that of the starter, which nobody writes to."""
    starter = starter_registry()
    return starter is not None and Path(path).exists() and starter.samefile(path)


def starter_wanted() -> bool:
    """Whether the starter lies beneath the registry: `PREFREG_NO_STARTER` leaves it out."""
    return os.environ.get("PREFREG_NO_STARTER", "") in ("", "0")


def default_registry() -> Path:
    """Return the registry that is used, and created by writers, when none is named.

    Where a clone's tracked starter has that name, it is the file beside it that git ignores.
    """
    own = Path("registry.db")
    return Path("registry.local.db") if is_starter(own) else own


def cache_folder() -> Path:
    """Return `PREFREG_CACHE`, else `prefreg` below the user's cache folder."""
    if setting := os.environ.get("PREFREG_CACHE"):
        return Path(setting)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prefreg"


def config_folder() -> Path:
    """Return `PREFREG_CONFIG`, else `prefreg` below the user's folder of settings."""
    if setting := os.environ.get("PREFREG_CONFIG"):
        return Path(setting)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "prefreg"


def plugins_to_load() -> frozenset[str] | None:
    """Return the distributions named in `PREFREG_LOAD_PLUGINS`; None means all of them."""
    setting = os.environ.get("PREFREG_LOAD_PLUGINS")
    if setting is None:
        return None
    return frozenset(name.strip() for name in setting.split(",") if name.strip())


def log_interval() -> float:
    """Return the seconds between two lines that tell a log where a run is.

    Raises:
        UsageError: `PREFREG_LOG_SECONDS` is no number above zero.
    """
    setting = os.environ.get("PREFREG_LOG_SECONDS") or "10"
    try:
        seconds = float(setting)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise UsageError(f"PREFREG_LOG_SECONDS={setting!r} is no number of seconds above zero.")
    return seconds


def debugging() -> bool:
    """Whether `PREFREG_DEBUG` asks for tracebacks."""
    return os.environ.get("PREFREG_DEBUG", "") not in ("", "0")
